"""The benchmark of catbAbI: the carried state, counting, resuming, and the whole command."""

import json
import sys
from itertools import pairwise

import pytest
import torch

from fwrl.bench.catbabi.benchmark import (
    BENCHMARK,
    METHODS,
    Segments,
    core_of,
    evaluate,
    measure,
    points,
    read,
)
from fwrl.bench.catbabi.figure import LABELS, draw
from fwrl.bench.catbabi.task import QUESTION, stream
from fwrl.bench.sequence_model import SequenceModel
from fwrl.bench.supervised import CHECKPOINT
from fwrl.cli import main
from fwrl.cli.bench import settings_of
from fwrl.config import ConfigError
from fwrl.files.checkpoint import load_checkpoint
from fwrl.state import tensors_in

CPU = torch.device("cpu")


def smoke(*overrides):
    return settings_of(BENCHMARK, "smoke", overrides)


def rows_of(measurement):
    """The rows that a measurement returns at its end."""
    while True:
        try:
            next(measurement)
        except StopIteration as end:
            return end.value


def model_of(settings, corpus, method="lstm"):
    torch.manual_seed(0)
    size = len(corpus.words)
    return SequenceModel((size,), size, settings.stack, core_of(settings, method))


def test_segments_follow_each_other_and_each_epoch_has_its_own_order():
    settings = smoke()
    corpus = read(settings)["train"]
    segments = Segments(settings, corpus, 0, CPU)
    first = [segments.at(step) for step in range(segments.per_epoch)]
    assert all(each.tokens.shape == (8, 20) for each in first)
    for before, after in pairwise(first):
        assert torch.equal(before.following[:, -1], after.tokens[:, 0])
    second = segments.at(segments.per_epoch)
    assert not torch.equal(second.tokens, first[0].tokens)
    # whatever was read before
    assert torch.equal(segments.at(3).tokens, first[3].tokens)
    assert not torch.equal(Segments(settings, corpus, 1, CPU).at(0).tokens, first[0].tokens)


@pytest.mark.parametrize(("reset", "batch_size"), [(False, 1), (True, 3)])
def test_answers_are_counted_as_one_by_one(reset, batch_size):
    settings = smoke(f"reset={reset}", "held_out=1")
    corpus = read(settings)["test"]
    # one of every third family
    few = corpus.stories[::3], corpus.family_of[::3]
    corpus = corpus._replace(stories=few[0], family_of=few[1])
    model = model_of(settings, corpus)
    counted = evaluate(model, settings, corpus, batch_size)
    text = stream(corpus, batch_size, torch.Generator().manual_seed(0))
    expected = {family: [0, 0] for family in corpus.families}
    for row in range(batch_size):
        state = model.initial_state(1)
        columns = zip(*(field[row].tolist() for field in text), strict=True)
        for token, following, family, start in columns:
            starts = torch.tensor([[start and reset]])
            logits, state = model(torch.tensor([[token]]), state, starts)
            if token == QUESTION:
                right_and_asked = expected[corpus.families[family]]
                right_and_asked[0] += int(logits.argmax() == following)
                right_and_asked[1] += 1
    assert counted == {family: tuple(both) for family, both in expected.items()}
    assert sum(asked for _, asked in counted.values()) > 15


def test_the_modes_train_on_different_targets(tmp_path):
    settings = smoke("modes=[qm,lm]", "training.steps=1", "training.batch_size=2")
    found = {p["mode"]: p for p in points(settings) if p["method"] == "lstm"}
    loss = {}
    for mode, point in found.items():
        notes = [progress.note for progress in measure(settings, point, tmp_path / mode)]
        loss[mode] = next(note for note in notes if "loss" in note)
    assert loss["qm"] != loss["lm"]


def test_resuming_equals_going_on(tmp_path):
    settings = smoke("save_every=0", "training.steps=4", "evaluate_every=2", "held_out=1")
    point = next(p for p in points(settings) if p["method"] == "lstm")
    whole = rows_of(measure(settings, point, tmp_path / "whole"))
    assert [(row["split"], row["step"]) for row in whole] == [
        ("valid", 2), ("valid", 4), ("test", 4),
    ]  # fmt: skip
    stopped = measure(settings, point, tmp_path / "stopped")
    while next(stopped).step < 3:
        pass
    stopped.close()
    torch.rand(7)
    resumed = rows_of(measure(settings, point, tmp_path / "stopped"))
    assert resumed == whole
    # the weights and the carried state too, to the last bit
    last = [load_checkpoint(tmp_path / name / CHECKPOINT)[0] for name in ("whole", "stopped")]
    for part in ("model", "carried"):
        torch.testing.assert_close(last[0][part], last[1][part], atol=0, rtol=0)


def test_the_state_is_carried_from_segment_to_segment(tmp_path):
    # weights that hardly change
    settings = smoke(
        "save_every=0", "training.steps=5", "training.learning_rate=1e-12", "held_out=1"
    )
    point = next(p for p in points(settings) if p["method"] == "lstm")
    rows_of(measure(settings, point, tmp_path))
    carried = load_checkpoint(tmp_path / CHECKPOINT)[0]["carried"]
    corpus = read(settings)["train"]
    model, segments = model_of(settings, corpus), Segments(settings, corpus, 0, CPU)
    tokens = torch.cat([segments.at(step).tokens for step in range(5)], dim=1)
    starts = torch.zeros_like(tokens, dtype=torch.bool)
    _, state = model(tokens, model.initial_state(8), starts)
    for index, leaf in enumerate(tensors_in(state)):
        torch.testing.assert_close(carried[str(index)], leaf, atol=1e-5, rtol=0)


def test_the_published_size():
    settings = settings_of(BENCHMARK, "paper", [])
    for vocabulary in (180, 150):
        core = core_of(settings, "fast_weight_memory")
        model = SequenceModel((vocabulary,), vocabulary, settings.stack, core)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        assert parameters == pytest.approx(690_000, rel=0.03)


def test_every_method_has_a_label_in_the_figure():
    assert set(METHODS) | {"question_alone"} <= set(LABELS)


def test_a_figure_of_some_points(tmp_path):
    rows = [
        {"mode": "qm", "method": "lstm", "seed": 0, "split": "valid", "step": 5, "accuracy": 0.4},
        {"mode": "qm", "method": "question_alone", "seed": 0, "split": "test", "step": 0,
         "accuracy": 0.3, "of_sizes": 0.5},
    ]  # fmt: skip
    draw(smoke(), rows[:1], tmp_path / "one.png")
    draw(smoke(), rows, tmp_path / "some.png")
    assert (tmp_path / "some.png").stat().st_size > 5_000


def test_own_files_are_read(tmp_path):
    for split in ("train", "valid", "test"):
        text = "1 Ida ran to the roof.\n2 Where is Ida? \troof\t1\n" * 30
        (tmp_path / f"qa1_{split}.txt").write_text(text)
    corpus = read(smoke(f"data={tmp_path}"))["test"]
    assert corpus.families == ("qa1",)
    assert len(corpus.words) == 10


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ConfigError, match="methods: there is no 'lstn'; did you mean 'lstm'"):
        smoke("methods=[lstn]")
    with pytest.raises(ConfigError, match="holds no bAbI files"):
        read(smoke(f"data={tmp_path}"))


def test_the_smoke_preset_from_the_command_line(tmp_path, monkeypatch):
    out = tmp_path / "catbabi"
    words = ["fwrl", "bench", "catbabi", "--preset", "smoke", "--jobs", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as leave:
        main()
    assert leave.value.code == 0
    document = json.loads((out / "results.json").read_text())
    tests = [row["method"] for row in document["rows"] if row["split"] == "test"]
    assert tests == ["question_alone", "fast_weight_memory", "lstm"]
    assert {"of_sizes", "of_route"} < document["rows"][0].keys()
    assert document["published"][1]["accuracy"] == 0.9675
    assert (out / "catbabi.png").exists()


@pytest.mark.learns
@pytest.mark.slow
def test_a_memory_learns_more_than_the_question_tells(tmp_path):
    settings = smoke(
        "methods=[delta]", "stories=200", "held_out=10", "stack.width=48", "segment=60",
        "training.steps=500", "training.batch_size=16", "training.learning_rate=0.004",
        "evaluate_every=0",
    )  # fmt: skip
    alone, delta = (rows_of(measure(settings, p, tmp_path))[-1] for p in points(settings))
    assert delta["accuracy"] > alone["accuracy"] + 0.1
