"""Code execution and ListOps as benchmarks: the recipe, the metrics, resuming, and the command."""

import json

import pytest
import torch
from matplotlib.image import imread

from fwrl import ConfigError
from fwrl.bench import find_benchmark
from fwrl.bench.algorithmic import benchmark as algorithmic
from fwrl.bench.algorithmic import code, listops
from fwrl.bench.algorithmic.benchmark import METHODS, core_of, epoch_batch, whole_sequences_right
from fwrl.bench.results import read_rows
from fwrl.bench.sequence_model import ABSENT, NOT_ASKED, Batch, SequenceModel
from fwrl.cli import main
from fwrl.cli.bench import settings_of
from fwrl.core import state_size

TINY = (
    "stack.width=8",
    "stack.layers=1",
    "stack.feed_forward=8",
    "heads=2",
    "validation_examples=10",
    "test_examples=10",
    "evaluate_every=3",
    "training.steps=7",
    "training.batch_size=4",
    "dropout=0.1",
)
TINY_TASK = {"code": ("statements=4", "variables=[2]"), "listops": ("depths=[2]",)}


def tiny(name, *overrides):
    benchmark = find_benchmark(name)
    return benchmark, settings_of(benchmark, "smoke", [*TINY, *TINY_TASK[name], *overrides])


def test_defaults_are_the_published_recipe():
    for name in ("code", "listops"):
        settings = settings_of(find_benchmark(name), "paper", [])
        assert (settings.stack.width, settings.stack.layers, settings.heads) == (256, 4, 16)
        assert settings.stack.feed_forward == 4 * 256
        training = settings.training
        batches_per_epoch = -(-settings.training_examples // training.batch_size)
        assert training.steps == 200 * batches_per_epoch
        assert settings.evaluate_every == batches_per_epoch
        assert (training.learning_rate, training.betas) == (3e-4, (0.9, 0.995))
        assert training.max_grad_norm is None
        assert core_of(settings, "delta").short_convolution == 0
    assert settings_of(find_benchmark("code"), "paper", []).published_quirk
    assert not settings_of(find_benchmark("code"), "cpu", []).published_quirk


def test_the_published_sum_is_normalised_by_nothing():
    _, settings = tiny("code")
    delta, plain, normalised = (
        core_of(settings, method) for method in ("delta", "sum", "sum, normalised")
    )
    assert (delta.update_rule, delta.normalise, delta.feature_map) == (
        "delta",
        "sum",
        "elu_plus_one",
    )
    assert (plain.update_rule, plain.normalise) == ("sum", "none")
    assert not plain.attention_normaliser
    assert normalised.attention_normaliser
    assert {each.heads for each in (delta, plain, normalised)} == {2}
    assert {each.short_convolution for each in (delta, plain, normalised)} == {4}


@pytest.mark.parametrize("method", METHODS)
def test_every_memory_is_a_method(method):
    _, settings = tiny("listops")
    core = core_of(settings, method).build(16)
    assert state_size(core) >= 0


@pytest.mark.parametrize("name", ["code", "listops"])
def test_every_figure_that_was_published_has_a_method_and_a_place(name):
    benchmark = find_benchmark(name)
    known = benchmark.points(settings_of(benchmark, "paper", []))
    places = [{k: v for k, v in point.items() if k != "seed"} for point in known]
    for row in benchmark.published:
        assert {k: v for k, v in row.items() if k != "accuracy"} in places
        assert 0 <= row["accuracy"] < 1


def test_an_epoch_brings_every_example_once_in_another_order():
    tokens = torch.full((10, 6), ABSENT)
    for number in range(10):
        tokens[number, : 1 + number % 5] = number
    examples = Batch(tokens, torch.where(tokens == ABSENT, NOT_ASKED, tokens))

    def epoch(number, seed=0):
        batches = [epoch_batch(examples, 4, 3 * number + i, seed) for i in range(3)]
        for batch in batches:
            # cut behind the longest, and nothing is lost
            assert (batch[0][:, -1] != ABSENT).any()
            assert torch.equal(batch[0] == ABSENT, batch[1] == NOT_ASKED)
        return [int(row[0]) for batch in batches for row in batch[0]]

    assert [len(epoch_batch(examples, 4, i, 0)[0]) for i in range(4)] == [4, 4, 2, 4]
    orders = [epoch(0), epoch(1), epoch(0, seed=1)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert epoch(0) == orders[0]


def test_a_sequence_is_right_only_if_all_of_it_is():
    targets = torch.tensor([[0, 3, 0], [0, 5, NOT_ASKED], [0, 4, 7]])
    predictions = torch.tensor([[0, 3, 0], [0, 5, 9], [0, 4, 6]])
    assert whole_sequences_right(predictions, targets).item() == pytest.approx(2 / 3)
    assert code.print_accuracy(predictions, targets)["print_accuracy"] == pytest.approx(3 / 4)
    answers = torch.tensor([[NOT_ASKED, 2], [9, NOT_ASKED], [NOT_ASKED, 9]])
    assert listops.majority(answers, answers)["majority"] == pytest.approx(2 / 3)


def run(measurement):
    progress = []
    while True:
        try:
            progress.append(next(measurement))
        except StopIteration as end:
            return progress, end.value


@pytest.mark.parametrize(
    ("name", "examples", "method"), [("code", 9, "delta"), ("listops", 0, "lstm")]
)
def test_a_training_that_was_stopped_ends_as_if_it_had_not(name, examples, method, tmp_path):
    overrides = (f"training_examples={examples}", f"methods=[{method}]", "save_every=0")
    benchmark, settings = tiny(name, *overrides)
    (point, *_) = benchmark.points(settings)
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    progress, rows = run(benchmark.measure(settings, point, tmp_path / "whole"))
    assert [one.step for one in progress] == list(range(1, 8))
    assert [row["step"] for row in rows] == [3, 6, 7, 7]
    stopped = benchmark.measure(settings, point, tmp_path / "parts")
    for _ in range(5):
        next(stopped)
    stopped.close()
    progress, again = run(benchmark.measure(settings, point, tmp_path / "parts"))
    assert [one.step for one in progress] == [6, 7]
    assert again == rows


def test_the_weights_that_are_tested_are_those_of_the_best_validation(tmp_path, monkeypatch):
    benchmark, settings = tiny("listops", "methods=[none]")
    seen, given = [], iter([0.2, 0.6, 0.4, 0.5])

    def evaluate(model, task, batch):
        seen.append(torch.cat([leaf.flatten() for leaf in model.state_dict().values()]))
        return {"accuracy": next(given)}

    monkeypatch.setattr(algorithmic, "_evaluate", evaluate)
    _, rows = run(benchmark.measure(settings, benchmark.points(settings)[0], tmp_path))
    assert [row.get("validation_accuracy") for row in rows] == [0.2, 0.6, 0.4, None]
    assert rows[-1]["accuracy"] == 0.5
    *validations, test = seen
    assert [torch.equal(test, each) for each in validations] == [False, True, False]


def test_dropout_drops_in_training_alone():
    _, settings = tiny("code")
    core = core_of(settings, "delta")
    torch.manual_seed(0)
    model = SequenceModel((5,), 4, settings.stack, core, dropout=0.5)
    tokens = torch.randint(5, (2, 6))
    state, starts = model.initial_state(2), torch.zeros(2, 6, dtype=torch.bool)
    first, second = (model(tokens, state, starts)[0] for _ in range(2))
    assert not torch.allclose(first, second)
    model.eval()
    first, second = (model(tokens, state, starts)[0] for _ in range(2))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("name", ["code", "listops"])
def test_the_command_measures_draws_and_keeps(name, tmp_path, monkeypatch):
    words = ["fwrl", "bench", name, "--preset", "smoke", "--out", str(tmp_path), "--jobs", "1"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as exit_code:
        main()
    assert exit_code.value.code == 0
    benchmark = find_benchmark(name)
    settings = settings_of(benchmark, "smoke", [])
    rows = [row for row in read_rows(tmp_path / "results.csv") if "accuracy" in row]
    assert len(rows) == len(benchmark.points(settings))
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["missing"] == []
    assert document["published"] == list(benchmark.published)
    picture = imread(tmp_path / f"{name}.png")
    assert picture.size > 1_000_000
    # a figure of a mere check says so in red
    assert ((picture[-45:, :, 0] > 0.9) & (picture[-45:, :, 1:3].max(-1) < 0.1)).sum() > 300
    by_method = {row["method"]: row for row in rows}
    second = "print_accuracy" if name == "code" else "majority"
    assert all(0 <= row[second] <= 1 for row in rows)
    # the memory learns within the minute, and nothing else can
    assert by_method["delta"]["loss"] < by_method["none"]["loss"] - 0.02


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("code", "methods=[dleta]", "there is no 'dleta'; did you mean 'delta'"),
        ("code", "variables=[11]", "variables.0 is 11; .* less than or equal to 10"),
        ("code", "statements=1", "statements is 1; .* greater than or equal to 2"),
        ("listops", "depths=[30]", "depths.0 is 30; .* less than or equal to 18"),
        ("listops", "max_arguments=1", "max_arguments is 1; .* greater than or equal to 2"),
        ("listops", "depth=3", "did you mean 'depths'"),
    ],
)
def test_settings_that_cannot_be_are_refused(name, override, message):
    with pytest.raises(ConfigError, match=message) as error:
        settings_of(find_benchmark(name), "cpu", [override])
    assert "\n" not in str(error.value)
