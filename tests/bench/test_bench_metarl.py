"""``fwrl bench metarl``: its points and curves, continued or not, its figure, and its mistakes."""

import sys

import numpy as np
import pytest
import torch

from agents.evaluation import evaluate
from agents.policy import RecurrentPolicy
from envs.tasks.graphs import published_graphs
from fwrl.bench.metarl import benchmark as metarl
from fwrl.bench.metarl.benchmark import BENCHMARK, METHODS, MetaRLSettings, mean_and_error
from fwrl.bench.metarl.figure import PUBLISHED, draw, moving_average
from fwrl.bench.results import read_rows
from fwrl.cli import main
from fwrl.cli.bench import settings_of
from fwrl.config import ConfigError, validate

TINY = {"methods": ("fast_weight_memory",), "num_envs": 3, "updates": 3, "evaluate_every": 2}


def tiny(**changes):
    return validate(MetaRLSettings, TINY | changes)


def measured(settings, folder, stop_after=None):
    """All rows of a point; with ``stop_after`` it is left alone after that many updates."""
    measurement = metarl.measure(settings, metarl.points(settings)[0], folder)
    while True:
        try:
            step, total, _ = next(measurement)
        except StopIteration as end:
            return end.value
        assert total == settings.updates
        if step == stop_after:
            return measurement.close()


def without_time(rows):
    return [{key: value for key, value in row.items() if key != "cpu_seconds"} for row in rows]


@pytest.fixture
def few_test_graphs(monkeypatch):
    monkeypatch.setattr(metarl, "TEST_GRAPHS", 20)


@pytest.mark.usefixtures("few_test_graphs")
def test_a_curve_has_a_row_for_each_evaluation_and_one_for_the_end(tmp_path):
    rows = measured(tiny(), tmp_path)
    assert [row["updates"] for row in rows] == [2, 3]
    assert [row["environment_steps"] for row in rows] == [180, 270]
    seconds = [row["cpu_seconds"] for row in rows]
    assert seconds == sorted(seconds)
    for row in rows:
        assert 20 < row["test_return"] < 80
        assert 0 < row["test_error"] < 20


@pytest.mark.usefixtures("few_test_graphs")
def test_a_stopped_measurement_goes_on_as_if_nothing_had_happened(tmp_path):
    settings = tiny(graphs="fresh", save_every=0, ppo={"epochs": 2})
    whole = measured(settings, tmp_path / "whole")
    assert measured(settings, tmp_path / "cut", stop_after=3) is None
    torch.manual_seed(1)
    assert without_time(measured(settings, tmp_path / "cut")) == without_time(whole)
    other = measured(settings.model_copy(update={"seeds": (1,)}), tmp_path / "other")
    assert without_time(other) != without_time(whole)


@pytest.mark.usefixtures("few_test_graphs")
def test_a_finished_measurement_has_nothing_left_to_do(tmp_path, monkeypatch):
    rows = measured(tiny(), tmp_path)

    def refuse(*_):
        raise AssertionError("it learns again")

    monkeypatch.setattr(metarl, "ppo_update", refuse)
    assert measured(tiny(), tmp_path) == rows


def test_every_test_graph_is_walked_on_once(monkeypatch, tmp_path):
    """And training takes graphs of the training, one each, or new ones."""
    walked = {}

    def watch(self, split, num_envs):
        walked[split] = envs(self, split, num_envs)
        return walked[split]

    envs = MetaRLSettings.envs
    monkeypatch.setattr(MetaRLSettings, "envs", watch)
    settings = tiny(updates=1, num_envs=600)
    evaluated = []
    monkeypatch.setattr(metarl, "evaluate", lambda *rest: evaluated.append(rest) or evaluate(*rest))
    (row,) = measured(settings, tmp_path / "fixed")
    test, train = (walked[split].envs.task.graph for split in ("test", "train"))
    np.testing.assert_array_equal(test, published_graphs()["test"])
    np.testing.assert_array_equal(train, published_graphs()["train"])
    _, _, episodes, _, deterministic = evaluated[0]
    assert (episodes, deterministic) == (600, False)
    assert row["test_return"] == pytest.approx(45.3, abs=3)
    assert row["train_return"] == pytest.approx(45.3, abs=3)
    measured(tiny(updates=1, graphs="fresh"), tmp_path / "fresh")
    known = {graph.tobytes() for graph in np.concatenate([test, train])}
    assert not known & {graph.tobytes() for graph in walked["fresh"].envs.task.graph}


def test_one_seed_of_all_methods_comes_first():
    settings = tiny(methods=("none", "lstm 32"), seeds=(4, 2))
    assert [tuple(point.values()) for point in metarl.points(settings)] == [
        ("none", 4),
        ("lstm 32", 4),
        ("none", 2),
        ("lstm 32", 2),
    ]


@pytest.mark.parametrize("preset", BENCHMARK.presets)
def test_presets_are_settings(preset):
    settings = validate(MetaRLSettings, dict(BENCHMARK.presets[preset]))
    assert set(settings.methods) <= set(METHODS)


@pytest.mark.parametrize("preset", BENCHMARK.presets)
def test_an_override_changes_one_number_of_a_preset(preset):
    plain = settings_of(BENCHMARK, preset, [])
    changed = settings_of(BENCHMARK, preset, ["ppo.learning_rate=1", "stack.width=18"])
    assert changed.ppo == plain.ppo.model_copy(update={"learning_rate": 1.0})
    assert changed.stack == plain.stack.model_copy(update={"width": 18})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stack", [{"bare": True, "width": 17}, {"width": 8}])
def test_every_method_can_act(method, stack):
    settings = tiny(methods=(method,), stack=stack)
    envs = settings.envs("fresh", 2)
    config = settings.policy(method)
    policy = RecurrentPolicy(envs.observation_space, envs.action_space, config)
    assert len(evaluate(policy, envs, 2, 0, False).returns) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("lstm 33",)}, "methods: there is no 'lstm 33'; did you mean 'lstm 32'?"),
        ({"ppo": {"num_steps": 29}}, "num_steps is 29; an episode has 30"),
        ({"graphs": "test"}, "graphs"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ConfigError) as error:
        tiny(**changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_error_is_half_the_interval():
    assert mean_and_error([1.0, 3.0]) == pytest.approx((2.0, 1.96))


def test_moving_averages_begin_with_what_there_is():
    assert moving_average([1.0, 3.0, 5.0, 7.0], 2) == [1, 2, 4, 6]


def test_the_figure_copes_with_anything(tmp_path):
    draw(None, [], tmp_path / "empty.png")
    rows = [row | {"seed": 0, "train_return": 50.0} for row in PUBLISHED]
    draw(None, rows, tmp_path / "full.png")
    assert (tmp_path / "full.png").stat().st_size > (tmp_path / "empty.png").stat().st_size


def test_the_command(monkeypatch, tmp_path, capsys):
    words = ["fwrl", "bench", "metarl", "--preset", "smoke", "--out", str(tmp_path), "--jobs", "1"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as leave:
        main()
    assert leave.value.code == 0
    rows = read_rows(tmp_path / "results.csv")
    assert {row["method"] for row in rows} == {"fast_weight_memory", "none"}
    assert all(30 < row["test_return"] < 60 for row in rows)
    assert (tmp_path / "metarl.png").stat().st_size > 10_000
    assert capsys.readouterr().out.count("method") == 2
