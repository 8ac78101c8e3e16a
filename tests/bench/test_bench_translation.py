"""The benchmark of translation: its recipe, its command, and a training that is interrupted."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from fwrl import ConfigError
from fwrl.bench.results import read_rows
from fwrl.bench.supervised import Learner, TrainingConfig, learning_rate
from fwrl.bench.translation import training as translation_run
from fwrl.bench.translation.benchmark import BENCHMARK, PRESETS, PUBLISHED
from fwrl.bench.translation.settings import TranslationSettings
from fwrl.bench.translation.task import Epochs, translation_batch
from fwrl.bench.translation.training import measure, read
from fwrl.cli import main
from fwrl.cli.app import app
from fwrl.cli.bench import settings_of
from fwrl.config import validate

TINY = {
    "languages": {"train": 300, "valid": 6, "test": 8, "max_length": 10, "max_depth": 0},
    "width": 16,
    "heads": 2,
    "layers": 1,
    "max_length": 30,
    "max_tokens": 200,
    "training": {"steps": 12},
}


def settings(**changes):
    return validate(TranslationSettings, {**TINY, **changes})


def run(measurement, stop=None):
    """The row, and the notes on the way; None if it is stopped at a step of training."""
    while True:
        try:
            progress = next(measurement)
        except StopIteration as end:
            return end.value
        if stop is not None and progress.step == stop:
            return None


def test_the_command_measures_and_draws(tmp_path):
    out = tmp_path / "results"
    command = ["bench", "translation", "--preset", "smoke", "--jobs", "1", "--out", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    rows = read_rows(out / "results.csv")
    assert [row["method"] for row in rows] == list(PRESETS["smoke"]["methods"])
    document = json.loads((out / "results.json").read_text())
    assert document["published"] == PUBLISHED
    assert (out / "translation.png").stat().st_size > 10_000
    for row in rows:
        assert "tok:13a" in row["signature"]
        assert 0 <= row["test_bleu"] <= 100
        assert 0 <= row["test_exact"] <= 1
    assert all(row["valid_loss"] < math.log(560) for row in rows[1:])


def test_a_training_that_is_interrupted_ends_as_another(tmp_path):
    tiny = settings(accumulation=2, dropout=0.3, save_every=0)
    point = {"method": "performer 32", "seed": 1}
    (whole,) = run(measure(tiny, point, tmp_path / "whole"))
    assert run(measure(tiny, point, tmp_path / "parts"), stop=5) is None
    (parts,) = run(measure(tiny, point, tmp_path / "parts"))
    assert parts == whole
    (other,) = run(measure(tiny, point | {"seed": 2}, tmp_path / "other"))
    assert other["valid_loss"] != whole["valid_loss"]


@pytest.mark.slow
@pytest.mark.learns
def test_a_small_language_is_learned(tmp_path):
    """It reaches a BLEU of 41; counting words, without order and context, 3."""
    languages = {"train": 4000, "valid": 40, "test": 100, "nouns": 12, "adjectives": 6}
    small = settings(
        languages=languages | {"max_depth": 1, "max_length": 14},
        width=48, heads=4, dropout=0.0, max_length=40, max_tokens=600,
        training={"steps": 500, "learning_rate": 5e-3, "warmup_steps": 50},
    )  # fmt: skip
    (learned,) = run(measure(small, {"method": "delta, dpfp 2", "seed": 0}, tmp_path))
    (counted,) = run(measure(small, {"method": "word by word", "seed": 0}, tmp_path))
    assert learned["test_bleu"] > 30
    assert counted["test_bleu"] < 10


def test_updates_of_several_batches_are_those_of_one():
    weight = torch.nn.Linear(3, 1, bias=False)
    x = torch.randn(4, 3)
    config = TrainingConfig(optimizer="adam", max_grad_norm=None)
    start = weight.weight.detach().clone()
    ends = []
    for parts in (1, 2):
        weight.weight.data.copy_(start)
        learner = Learner(weight, config)
        for _ in range(3):
            losses = [weight(part).square().sum() for part in x.chunk(parts)]
            learner.update(losses[0] if parts == 1 else iter(losses))
        assert learner.step == 3
        ends.append(weight.weight.detach().clone())
    torch.testing.assert_close(ends[0], ends[1])


def test_the_rate_falls_with_the_root_of_the_updates():
    config = TrainingConfig(schedule="inverse_sqrt", warmup_steps=4, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in (0, 1, 3, 4, 15, 63)]
    assert rates == pytest.approx([0.25, 0.5, 1.0, math.sqrt(4 / 5), 0.5, 0.25])


def test_the_loss_that_is_reported_is_that_of_single_sentences(tmp_path):
    """Mean over words, in nats, without smoothing and without padding."""
    tiny = settings(label_smoothing=0.5)
    texts = read(tiny, tmp_path)
    torch.manual_seed(0)
    model, row = translation_run._build(tiny, "dpfp 1", texts, torch.device("cpu"))
    model.eval()
    total, words = 0.0, 0
    for source, target in texts.splits.valid:
        tokens = torch.tensor([[*texts.vocabulary.encode([source])[0], 2]])
        answer = torch.tensor([*texts.vocabulary.encode([target])[0], 2])
        said = torch.cat([torch.tensor([1]), answer[:-1]])
        total += F.cross_entropy(model(tokens, said[None])[0], answer, reduction="sum").item()
        words += len(answer)
    found = translation_run._loss(tiny, model, texts.valid)
    assert found == pytest.approx(total / words, abs=1e-4)
    assert row["parameters"] == sum(p.numel() for p in model.parameters())
    # 8 numbers of each of 2 heads, 16 features, and the sum of the keys
    assert (row["encoder"], row["state"]) == ("dpfp", 2 * 16 * 9)


def test_the_loss_of_several_batches_is_a_mean_over_all_their_words(tmp_path):
    tiny = settings(accumulation=3, label_smoothing=0.0, dropout=0.0)
    texts = read(tiny, tmp_path)
    torch.manual_seed(0)
    model, _ = translation_run._build(tiny, "linear", texts, torch.device("cpu"))
    epochs = Epochs(texts.train, torch.arange(300), 200, torch.Generator().manual_seed(0))
    rows = torch.cat(epochs.batches[:3])
    losses = []
    parts = list(translation_run._parts(tiny, model, texts.train, epochs, losses))
    assert len(parts) == len(losses) == 3
    batch = translation_batch(texts.train, rows, torch.device("cpu"))
    logits = model(batch.source, batch.target).flatten(0, 1)
    mean = F.cross_entropy(logits, batch.answer.flatten())
    torch.testing.assert_close(sum(losses), mean.detach(), atol=1e-5, rtol=1e-5)


def test_text_of_the_users(tmp_path):
    for name, count in (("train", 40), ("valid", 3), ("test", 3)):
        lines = [" ".join("abc"[(i * j) % 3] for j in range(2 + i % 4)) for i in range(count)]
        (tmp_path / f"{name}.xx").write_text("\n".join(lines) + "\n")
        (tmp_path / f"{name}.yy").write_text("\n".join(lines).upper() + "\n")
    own = settings(data=tmp_path, source_language="xx", target_language="yy", save_every=0)
    (row,) = run(measure(own, {"method": "word by word", "seed": 0}, tmp_path))
    assert row["test_exact"] == 1.0
    assert row["test_bleu"] == pytest.approx(100.0)
    BENCHMARK.draw(own, [{"method": "word by word", "seed": 0, **row}], tmp_path / "one.png")
    assert (tmp_path / "one.png").exists()
    (row,) = run(measure(own, {"method": "none", "seed": 0}, tmp_path))
    assert row["valid_loss"] < 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["dpfp2"]}, "methods: there is no 'dpfp2'; did you mean 'dpfp 2'"),
        ({"max_tokens": 20}, "max_tokens is 20, .* max_length, 30; use more"),
        ({"training": {"batch_size": 8}}, "training.batch_size is not used: .* use max_tokens"),
        ({"width": 30, "heads": 4}, "width is 30, .* 4 heads; use a multiple of 4"),
        ({"languages": {"nouns": 2}}, "languages.nouns is 2"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        settings(**changes)
    assert "\n" not in str(error.value)


def test_mistakes_end_the_command_with_one_line(tmp_path, monkeypatch, capsys):
    command = ["bench", "translation", f"data={tmp_path}", "--preset", "smoke", "--jobs", "1"]
    monkeypatch.setattr("sys.argv", ["fwrl", *command, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "train.en cannot be read" in said
    assert said.count("\n") == 1


def test_no_sentence_short_enough_is_a_mistake(tmp_path):
    short = settings(max_length=3)
    with pytest.raises(ConfigError, match="max_length is 3; all sentences are longer"):
        run(measure(short, {"method": "linear", "seed": 0}, tmp_path))


def test_presets_are_possible_and_the_published_recipe():
    for name in PRESETS:
        assert settings_of(BENCHMARK, name, [])
    paper = settings_of(BENCHMARK, "paper", [])
    assert (paper.layers, paper.width, paper.heads, paper.feed_forward) == (6, 1024, 16, 4096)
    assert (paper.max_tokens, paper.accumulation) == (3584, 3 * 16)
    assert (paper.vocabulary, paper.vocabulary_size) == ("subwords", 32_000)
    assert {row["method"] for row in PUBLISHED} == set(paper.methods)
    assert {row["method"]: row["test_bleu"] for row in PUBLISHED}["performer 256"] == 27.7
    cpu = settings_of(BENCHMARK, "cpu", ["seeds=[0,1]"])
    points = BENCHMARK.points(cpu)
    assert [p["method"] for p in points].count("word by word") == 1
    assert len(points) == 2 * len(cpu.methods) - 1
    assert Path(paper.data or "").name == "wmt14"
