"""The benchmark of sorting: gradients, windows, resuming, mistakes, and the whole command."""

import json
import re
import sys

import pytest
import torch

from fwrl.bench.plot import LABELS
from fwrl.bench.sequence_model import SequenceModel
from fwrl.bench.sorting.benchmark import BENCHMARK, METHODS, core_of, last_logits, measure, points
from fwrl.bench.sorting.figure import draw
from fwrl.bench.supervised import answers
from fwrl.cli import main
from fwrl.cli.bench import settings_of
from fwrl.config import ConfigError


def smoke(*overrides):
    return settings_of(BENCHMARK, "smoke", overrides)


def rows_of(measurement):
    """The rows that a measurement returns at its end."""
    while True:
        try:
            next(measurement)
        except StopIteration as end:
            return end.value


def model_of(settings, method):
    torch.manual_seed(0)
    return SequenceModel((5,), 4, settings.stack, core_of(settings, method)).double()


@pytest.mark.parametrize("method", METHODS)
def test_pieces_give_the_logits_of_the_whole(method):
    settings = smoke()
    model = model_of(settings, method)
    tokens = torch.randint(5, (2, 45))
    torch.testing.assert_close(last_logits(model, tokens, 16), answers(model, tokens)[:, -16:])


def test_no_gradient_reaches_before_the_last_piece():
    settings = smoke()
    model = model_of(settings, "sum")
    tokens = torch.cat([torch.zeros(1, 24, dtype=torch.long), torch.ones(1, 8).long()], dim=1)
    gradients = {}
    for backpropagated in (8, 16):
        model.zero_grad()
        last_logits(model, tokens, backpropagated).sum().backward()
        gradients[backpropagated] = model.embeddings[0].weight.grad.abs().sum(dim=1)
    # token 0 is row 1; it is read by the last piece only if that is longer than eight times
    assert gradients[8][1] == 0 < gradients[16][1]
    assert gradients[8][2] > 0


def test_windowed_attention_sees_as_far_as_the_figure_says():
    settings = smoke("stack.layers=2")
    model = model_of(settings, "window_attention")
    tokens = torch.randint(4, (1, 60))
    logits = answers(model, tokens)[0, -1]
    for back, seen in ((settings.reach - 1, True), (settings.reach, False)):
        other = tokens.clone()
        other[0, -1 - back] = (other[0, -1 - back] + 1) % 4
        assert torch.equal(answers(model, other)[0, -1], logits) != seen


def test_resuming_equals_going_on(tmp_path):
    settings = smoke("save_every=0", "training.steps=4", "training.batch_size=4")
    point = next(p for p in points(settings) if p["method"] == "sum")
    whole = rows_of(measure(settings, point, tmp_path / "whole"))
    stopped = measure(settings, point, tmp_path / "stopped")
    while next(stopped).step < 2:
        pass
    stopped.close()
    torch.rand(7)
    resumed = measure(settings, point, tmp_path / "stopped")
    assert next(resumed).step == 3
    assert rows_of(resumed) == whole


def test_seeds_come_one_after_another():
    found = points(smoke("seeds=[0,1]"))
    assert [p["seed"] for p in found] == [0] * 4 + [1] * 4
    assert found[0]["method"] == "last_window"


def test_every_method_has_a_label_in_the_figure():
    assert set(METHODS) <= set(LABELS)


def test_a_figure_of_some_points(tmp_path):
    row = {"length": 64, "method": "sum", "seed": 0, "accuracy": 0.3, "error": 0.01}
    draw(smoke(), [row], tmp_path / "some.png")
    assert (tmp_path / "some.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backpropagated=3", "backpropagated is 3, but the answers alone take 4 times"),
        ("methods=[sun]", "methods: there is no 'sun'; did you mean 'sum'"),
    ],
)
def test_mistakes_are_named(override, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        smoke(override)


def test_the_smoke_preset_from_the_command_line(tmp_path, monkeypatch):
    out = tmp_path / "sorting"
    words = ["fwrl", "bench", "sorting", "--preset", "smoke", "--jobs", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as leave:
        main()
    assert leave.value.code == 0
    document = json.loads((out / "results.json").read_text())
    assert [row["method"] for row in document["rows"]] == [
        "last_window", "infinite_former_sticky", "window_attention", "sum",
    ]  # fmt: skip
    assert all(0 <= row["accuracy"] <= 1 for row in document["rows"])
    assert len(document["published"]) == 3
    assert (out / "sorting.png").exists()


@pytest.mark.learns
@pytest.mark.slow
def test_a_sum_learns_to_count_beyond_a_window(tmp_path):
    settings = smoke("training.steps=600", "stack.width=32", "test_sequences=200")
    rows = {
        method: rows_of(measure(settings, point, tmp_path / method))[0]
        for point in points(settings)
        if (method := point["method"]) in ("last_window", "sum", "window_attention")
    }
    assert rows["sum"]["accuracy"] > rows["last_window"]["accuracy"] + 0.05
    assert rows["window_attention"]["accuracy"] < rows["sum"]["accuracy"] - 0.05
