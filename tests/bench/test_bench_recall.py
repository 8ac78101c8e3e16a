"""``fwrl bench recall``: its points, its memories, and that a stopped training goes on the same."""

import json

import pytest

from fwrl import ConfigError
from fwrl.bench.recall import benchmark as recall
from fwrl.bench.recall.benchmark import BENCHMARK, RecallSettings, draw, measure, points
from fwrl.bench.recall.figure import best_rate
from fwrl.bench.recall.memories import EVERY_CORE, MEMORIES, FastWeightSizes, core_of
from fwrl.bench.results import read_rows
from fwrl.cli import main
from fwrl.cli.bench import settings_of
from fwrl.config import validate
from fwrl.core import state_size
from fwrl.cores import CORES

LATEST = {"kind": "latest_value", "num_keys": 6, "num_pairs": 3, "num_queries": 3, "rewrites": 3}
MANY = {"kind": "multi_query", "vocabulary_size": 12, "length": 12, "num_pairs": 3}


def settings_for(task, **values):
    training = {"steps": 12, "batch_size": 8, "learning_rate": 1e-2}
    small = {"widths": (8,), "memories": ("delta, silu",), "training": training, "answers": 48}
    return validate(RecallSettings, {**small, "task": task, **values})


def finish(measurement, after=None):
    """Its rows; stopped after so many messages, if told so."""
    count = 0
    while after is None or count < after:
        try:
            next(measurement)
        except StopIteration as end:
            return end.value
        count += 1
    measurement.close()
    return None


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["fwrl", "bench", "recall", "--jobs", "1", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.parametrize("task", [LATEST, MANY], ids=["latest", "many"])
def test_a_stopped_training_goes_on_as_if_nothing_had_happened(task, tmp_path, monkeypatch):
    monkeypatch.setattr("fwrl.bench.recall.benchmark.REPORT_INTERVAL", 0.0)
    settings = settings_for(task, save_every=0.0)
    (point,) = points(settings)
    whole = finish(measure(settings, point, tmp_path / "whole"))
    assert finish(measure(settings, point, tmp_path / "parts"), after=5) is None
    resumed = measure(settings, point, tmp_path / "parts")
    # what the fifth message told was not saved yet
    assert next(resumed).step == 5
    assert finish(resumed) == whole
    other = points(settings_for(task, seeds=(1,)))[0]
    assert finish(measure(settings, other, tmp_path / "other")) != whole


def test_more_training_answers_better(tmp_path):
    few, many = (
        finish(
            measure(
                settings := settings_for(
                    LATEST | {"rewrites": 0, "num_values": 4},
                    widths=(16,),
                    training={"steps": steps, "batch_size": 32, "learning_rate": 1e-2},
                    answers=960,
                ),
                points(settings)[0],
                tmp_path / str(steps),
            )
        )[0]
        for steps in (1, 120)
    )
    assert few["accuracy"] < 0.45
    assert many["accuracy"] > 0.8
    assert many["loss"] < few["loss"]


def test_points_are_in_the_order_of_seeds_and_name_what_they_train():
    settings = settings_for(
        MANY, seeds=(0, 1), sizes=((12, 3), (8, 2)), learning_rates=(1e-3, 1e-2)
    )
    listed = points(settings)
    assert len(listed) == 8
    assert [point["seed"] for point in listed] == [0] * 4 + [1] * 4
    assert {(point["length"], point["pairs"]) for point in listed} == {(12, 3), (8, 2)}
    (only,) = points(settings_for(LATEST))
    assert (only["length"], only["pairs"], only["learning_rate"]) == (9, 3, 1e-2)


def test_a_point_trains_on_the_sizes_and_the_rate_that_it_names(tmp_path):
    settings = settings_for(MANY, sizes=((12, 3), (8, 2)), learning_rates=(1e-6, 1e-2))
    measured = [
        finish(measure(settings, point, tmp_path / str(number)))[0]
        for number, point in enumerate(points(settings))
    ]
    # nothing is learned at the first rate; the vocabulary, and so the start, is the same
    assert len({row["loss"] for row in measured}) == 4
    assert measured[1]["loss"] < measured[0]["loss"]


@pytest.mark.parametrize("memory", MEMORIES)
def test_every_memory_fits_every_width(memory):
    for width in (16, 32):
        core = core_of(memory, width, FastWeightSizes()).build(width)
        assert core.input_size == width
    kinds = {values.get("kind", "fast_weight") for values in MEMORIES.values()}
    assert set(CORES) <= kinds
    assert set(EVERY_CORE) <= set(MEMORIES)


def test_fast_weights_of_the_same_sizes_remember_as_much():
    sizes = FastWeightSizes(heads=1, key_features=32, value_size=4, short_convolution=4)

    def matrix(memory):
        core = core_of(memory, 64, sizes).build(64)
        return core.initial_state(1).weights.shape

    rules = [name for name, values in MEMORIES.items() if "kind" not in values]
    assert len(rules) == 12
    for name in rules:
        # one column more for the normaliser of attention
        columns = 5 if core_of(name, 64, sizes).attention_normaliser else 4
        assert matrix(name) == (1, 1, 32, columns), name
    delta, added = (
        state_size(core_of(name, 64, sizes).build(64)) for name in ("delta, silu", "sum, silu")
    )
    assert delta == added


def test_the_published_figure_is_not_changed_by_what_multi_query_recall_adds():
    settings = settings_of(BENCHMARK, "cpu", [])
    assert len(points(settings)) == 9 * len(EVERY_CORE)
    assert core_of("delta, silu", 64, settings.fast_weights) == CORES["fast_weight"](
        update_rule="delta", convolution_init="random"
    )


def test_the_best_rate_is_that_of_the_best_mean_among_those_with_most_seeds():
    def row(rate, seed, accuracy):
        return {"learning_rate": rate, "seed": seed, "accuracy": accuracy}

    rows = [row(0.1, 0, 0.9), row(0.1, 1, 0.1), row(0.2, 0, 0.6), row(0.2, 1, 0.7)]
    assert best_rate(rows) == rows[2:]
    assert best_rate([*rows, row(0.3, 0, 1.0)]) == rows[2:]


@pytest.mark.parametrize("preset", BENCHMARK.presets)
def test_every_preset_can_be_built(preset):
    settings = settings_of(BENCHMARK, preset, [])
    for point in points(settings):
        core_of(str(point["memory"]), int(point["width"]), settings.fast_weights)


def test_the_smoke_preset_measures_draws_and_continues(monkeypatch, tmp_path, capsys):
    options = ["--preset", "smoke", "--out", str(tmp_path)]
    assert run(monkeypatch, *options, 'memories=["lru"]') == 0
    first = read_rows(tmp_path / "results.csv")
    assert len(first) == 2
    capsys.readouterr()
    assert run(monkeypatch, *options) == 0
    assert capsys.readouterr().out.count("seconds") == 6
    rows = read_rows(tmp_path / "results.csv")
    assert len(rows) == 8
    assert all(row in rows for row in first)
    assert json.loads((tmp_path / "results.json").read_text())["missing"] == []
    assert (tmp_path / "recall.png").read_bytes().startswith(b"\x89PNG")
    # memories and widths may change in a folder, the task may not
    assert run(monkeypatch, *options, "task.rewrites=0") == 2
    assert "task.rewrites" in capsys.readouterr().err


def test_multi_query_recall_is_drawn_with_points_missing(tmp_path):
    settings = settings_of(BENCHMARK, "mqar", [])
    rows = [
        {**point, "state_size": 200, "parameters": 1, "accuracy": 0.5, "loss": 1.0}
        for point in points(settings)[:7]
    ]
    draw(settings, rows, tmp_path / "recall.png")
    assert (tmp_path / "recall.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"memories": ["delta, sillu"]}, "there is no 'delta, sillu'; did you mean 'delta, silu'"),
        ({"task": LATEST, "sizes": [[12, 3]]}, "sizes are of a multi_query task"),
        ({"task": MANY, "sizes": [[10, 3]]}, "length is 10, .* even number from 12"),
        ({"task": {"kind": "multy_query"}}, "did you mean 'multi_query'"),
        ({"fast_weights": {"head": 2}}, "did you mean 'heads'"),
    ],
)
def test_mistakes_are_one_line(values, message):
    with pytest.raises(ConfigError, match=message) as error:
        validate(RecallSettings, values)
    assert "\n" not in str(error.value)


def test_data_of_one_seed_is_the_same_for_every_memory(tmp_path, monkeypatch):
    seen = []

    def remember(config, batch_size, generator):
        seen.append(generator.initial_seed())
        return real(config, batch_size, generator)

    real = recall.multi_query_batch
    monkeypatch.setattr(recall, "multi_query_batch", remember)
    for memory in ("delta, silu", "none"):
        settings = settings_for(MANY, memories=(memory,))
        finish(measure(settings, points(settings)[0], tmp_path / memory))
    half = len(seen) // 2
    assert seen[:half] == seen[half:]
    assert seen[:12] == [1_000] * 12
    assert set(seen[12:half]) == {2_000}
