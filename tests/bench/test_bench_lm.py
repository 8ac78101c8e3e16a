"""The benchmark of language models: its command, its points and what they cost, its figures."""

import re
import sys

import pytest
import torch

from fwrl import CORES, ConfigError
from fwrl.bench.lm.benchmark import (
    METHODS,
    PRESETS,
    PUBLISHED,
    LanguageModelSettings,
    core_of,
    model_config,
    points,
)
from fwrl.bench.lm.figure import draw
from fwrl.bench.lm.model import LanguageModel
from fwrl.bench.results import read_rows
from fwrl.cli import main
from fwrl.config import validate
from fwrl.files.checkpoint import load_checkpoint


def bench(monkeypatch, folder, *arguments):
    """The exit code of the command."""
    command = ["fwrl", "bench", "lm", "--preset", "smoke", "--jobs", "1", "--out", str(folder)]
    monkeypatch.setattr(sys, "argv", [*command, *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


def settings_for(preset="smoke", **values):
    return validate(LanguageModelSettings, {**PRESETS[preset], **values})


def test_the_smoke_preset(monkeypatch, tmp_path):
    assert bench(monkeypatch, tmp_path) == 0
    rows = read_rows(tmp_path / "results.csv")
    for method in ("none", "sum", "delta"):
        own = [row for row in rows if row["method"] == method]
        curve = [row for row in own if row["split"] == "valid"]
        assert [row["tokens"] for row in curve] == [10 * 512, 20 * 512, 30 * 512, 40 * 512]
        assert curve[-1]["bits"] < curve[0]["bits"] < 8
        (final,) = [row for row in own if row["split"] == "test"]
        assert final["reading"] == "segments"
        # all but the first byte of the last whole line within the limit
        assert 3900 < final["asked"] < 4000
        folder = tmp_path / "points" / f"method-{method}_state-carried_seed-0"
        written = (folder / "sample.txt").read_text()
        assert "----- from here on the model writes -----" in written
    assert len({row["corpus"] for row in rows}) == 1
    assert (tmp_path / "lm.png").stat().st_size > 10_000

    # what was trained is there to be used
    settings = settings_for()
    model = LanguageModel(256, model_config(settings, "delta"), core_of(settings, "delta"))
    model.load_state_dict(load_checkpoint(folder / "checkpoint").tensors["model"])


def test_words_of_the_library_with_an_adaptive_softmax(monkeypatch, tmp_path):
    few = "methods=delta", "carry=[true,false]", "training.steps=20", "evaluations=1", "sample=20"
    words = "level=word", "model.cutoffs=[100,500]", "model.dropout=0.1", "valid_bytes=20000"
    assert bench(monkeypatch, tmp_path, *few, *words) == 0
    rows = read_rows(tmp_path / "results.csv")
    finals = [(row["state"], row["reading"]) for row in rows if row["split"] == "test"]
    # a window has no meaning for a model that is used to a state
    assert finals == [
        ("carried", "segments"),
        ("reset", "window, stride 32"),
        ("reset", "segments"),
    ]
    assert len({row["asked"] for row in rows if row["split"] == "test"}) == 1
    for row in rows:
        assert row["perplexity"] < row["vocabulary"]
        assert row["vocabulary"] > 1000
    written = (tmp_path / "points/method-delta_state-reset_seed-0/sample.txt").read_text()
    # a sign is a word of its own; which signs there are depends on Python's own text
    assert re.search(r" [.:,=(] ", written)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["corpus=nowhere"], "corpus: nowhere is not a folder; give one with wiki.train.tokens"),
        (["methods=dleta"], "there is no 'dleta'; did you mean 'delta'?"),
        (
            ["stride=65"],
            "stride is 65, but tokens between two windows of 64 would never be predicted",
        ),
        (["methods=lstm", "model.feed_forward=8"], "without feed-forward layers, more than"),
        (["train_bytes=300"], "less than one segment of 64 in each of 8 rows"),
        (["heads=5"], "input_size 32 does not divide into 5 heads"),
        (["model.cutoffs=[5,5]"], "use rising numbers"),
    ],
)
def test_mistakes_are_one_line(arguments, message, monkeypatch, tmp_path, capsys):
    assert bench(monkeypatch, tmp_path, *arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


NAMED = [method for method in METHODS if method not in CORES]


@pytest.mark.parametrize("method", [*NAMED, "none", "lstm", "recurrent_delta"])
def test_methods_have_equal_parameters(method):
    settings = settings_for("cpu")

    def parameters(method):
        model = LanguageModel(256, model_config(settings, method), core_of(settings, method))
        return sum(parameter.numel() for parameter in model.parameters())

    # half a hidden unit of each of two layers
    assert abs(parameters(method) - parameters("sum")) <= 129
    assert parameters("sum") == pytest.approx(parameters(method), rel=0.002)


def test_the_papers_small_model():
    settings = settings_for("paper")
    torch.manual_seed(0)
    config = settings.model.model_copy(update={"cutoffs": (2000,)})
    models = {m: LanguageModel(9000, config, core_of(settings, m)) for m in ("sum", "delta")}
    counts = {m: sum(p.numel() for p in model.parameters()) for m, model in models.items()}
    # beta is all that the delta rule adds: about 16 thousand
    assert counts["delta"] - counts["sum"] == 16 * 8 * 129
    # without the vectors and biases of words and of one cluster
    assert counts["sum"] - 9001 * 129 == pytest.approx(40e6 - 268e3 * 129, rel=0.75)
    core = core_of(settings, "delta").build(128)
    assert (core.heads, core.key_size) == (8, 16)
    assert core_of(settings, "softmax").window == 256
    assert core_of(settings, "performer sum").build(128).feature_map.size == 16
    assert core_of(settings, "dpfp delta").build(128).feature_map.size == 32
    assert model_config(settings, "delta") == settings.model


def test_points_have_all_methods_of_a_seed_first():
    settings = settings_for("cpu", carry=[True, False], seeds=[3, 4], methods=["sum", "lstm"])
    found = points(settings)
    assert len(found) == 8
    assert {row["seed"] for row in found[:4]} == {3}
    assert found[0] == {"method": "sum", "state": "carried", "seed": 3}
    assert points(settings_for(carry=False))[0]["state"] == "reset"


def test_memories_of_ones_own():
    settings = settings_for(cores={"mine": {"update_rule": "kda"}}, methods="mine")
    assert core_of(settings, "mine") == CORES["fast_weight"](update_rule="kda")
    with pytest.raises(ConfigError, match="there is no 'mien'; did you mean 'mine'"):
        settings_for(cores={"mine": {"update_rule": "kda"}}, methods=["mien"])


def test_published_deltas_are_below_sums_of_the_same_features():
    tests = {(row.get("size"), row["model"], row["state"]): row["test"] for row in PUBLISHED}
    for size in ("small", "medium"):
        assert tests[size, "Delta Net", "reset"] <= tests[size, "Linear Transformer", "reset"] - 1.5
        assert tests[size, "Performer, delta", "reset"] < tests[size, "Performer, sum", "reset"]
    assert tests["small", "DPFP 1, delta", "reset"] == 35.0
    assert {row["method"] for row in PUBLISHED if "method" in row} <= set(METHODS)


def test_the_figure_needs_neither_all_points_nor_both_splits(tmp_path):
    row = {"method": "delta", "state": "carried", "seed": 0, "corpus": "x", "parameters": 5}
    valid = row | {"split": "valid", "reading": "segments", "bits": 2.0, "perplexity": 4.0}
    draw(settings_for(), [valid | {"tokens": 100}], tmp_path / "one.png")
    test = valid | {"split": "test", "reading": "window, stride 1", "tokens": 7}
    draw(settings_for(level="word"), [test], tmp_path / "other.png")
    assert (tmp_path / "one.png").exists()
    assert (tmp_path / "other.png").exists()
