"""Scores, intervals, the table and the figures that a comparison makes from its runs."""

import csv
import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from fwrl.bench import plot
from fwrl.bench.plot import colours_of
from fwrl.cli.compare.figures import band, draw, draw_transfer
from fwrl.cli.compare.scores import (
    complete_tasks,
    final_evaluation,
    highest_epoch_mean,
    normalised,
)
from fwrl.cli.compare.settings import ComparisonConfig, Run, load_comparison, runs_of
from fwrl.cli.compare.table import markdown
from fwrl.config import ConfigError
from fwrl.run.build import prepare
from fwrl.run.config import load_run_config
from fwrl.run.table import read_metrics, steps_so_far

CONFIGS = Path(__file__).parents[2] / "configs"
COMPARISONS = sorted((CONFIGS / "compare").glob("*.yaml"))


def comparison(**settings):
    values = {
        "tasks": {"one": {"config": "quickstart.yaml"}, "two": {"config": "quickstart.yaml"}},
        "columns": {"gru": ["core.kind=gru"], "delta | net": []},
        "seeds": [0, 1],
    }
    return ComparisonConfig.model_validate(values | settings)


def row(task, column, seed, score):
    costs = {"parameters": 1000 + seed, "steps_per_second": 10.0 * (seed + 1)}
    return {"task": task, "column": column, "seed": seed, "score": score, **costs}


ROWS = [
    row("one", "gru", 0, -3.0),
    row("one", "gru", 1, 1.0),
    row("one", "delta | net", 0, 5.0),
    row("one", "delta | net", 1, 3.0),
    row("two", "gru", 0, 20.0),
    row("two", "gru", 1, 30.0),
    row("two", "delta | net", 0, 10.0),
    row("two", "delta | net", 1, 20.0),
]


def test_the_highest_mean_of_an_epoch():
    steps = np.arange(1, 14) * 30.0
    returns = np.random.default_rng(1).normal(size=13)
    epochs = {}
    for step, value in zip(steps, returns, strict=True):
        epochs.setdefault(math.ceil(step / 100), []).append(value)
    # 390 steps are three whole epochs and the beginning of a fourth, which has the highest row
    returns[-1] = 99
    means = [np.mean(epochs[epoch]) for epoch in (1, 2, 3)]
    curve = np.stack([steps, returns], axis=1)
    assert highest_epoch_mean(curve, 100) == pytest.approx(max(means))
    assert highest_epoch_mean(curve, 30) == 99
    # without a whole epoch there is that one
    assert highest_epoch_mean(curve[:3], 100) == pytest.approx(returns[:3].mean())
    assert highest_epoch_mean(np.zeros((0, 2)), 100) is None


def test_scores_are_scaled_by_the_range_or_by_what_was_reached():
    tasks = {
        "one": {"config": "quickstart.yaml", "range": [-5, 5]},
        "two": {"config": "quickstart.yaml"},
    }
    scaled = normalised(comparison(tasks=tasks), ROWS, ["one", "two"])
    assert scaled["gru"] == [[0.2, 0.6], [0.5, 1.0]]
    assert scaled["delta | net"] == [[1.0, 0.8], [0.0, 0.5]]
    equal = [row("two", column, 0, 7.0) for column in ("gru", "delta | net")]
    assert normalised(comparison(), equal, ["two"]) == {"gru": [[0]], "delta | net": [[0]]}


def test_only_tasks_with_all_runs_are_put_together():
    assert complete_tasks(comparison(), ROWS) == ["one", "two"]
    assert complete_tasks(comparison(), ROWS[1:]) == ["two"]
    # a seed that nobody has yet
    assert complete_tasks(comparison(seeds=[0, 1, 2]), ROWS) == ["one", "two"]
    assert complete_tasks(comparison(), ROWS[:2]) == []


def test_the_table():
    text = markdown(comparison(), ROWS, [], 0)
    assert "| task | gru | delta \\| net |" in text
    # Student's quantile for two seeds, 12.706, times standard errors of 2, 1, 5 and 5
    assert "| one | -1.000 [-26.412, 24.412] | **4.000** [-8.706, 16.706] |" in text
    assert "| two | **25.000** [-38.530, 88.530] | 15.000 [-48.530, 78.530] |" in text
    assert "| 2 tasks, normalised | 0.500 [" in text
    # 0, 0.5, 0.75 and 1, of which the middle half counts
    assert "] | **0.625** [" in text
    assert "From the lowest to the highest score of any run: one, two." in text
    assert "| gru | 4 | 1,000 to 1,001 | 15 |" in text
    assert "missing" not in text
    # higher in one task of two, and in three of eight pairs of runs, with one level
    assert "|  | gru | delta \\| net |" in text
    assert "| gru |  | 1 : 1, 0.44 [" in text
    assert "| delta \\| net | 1 : 1, 0.56 [" in text
    alone = markdown(comparison(seeds=[0]), ROWS[::2], [], 0)
    assert "| one | -3.000 | **5.000** |" in alone
    assert "| 2 tasks, normalised | **0.500** | **0.500** |" in alone
    assert "| gru |  | 1 : 1, 0.50 |" in alone
    # the other seed is still to come
    assert "interquartile mean.\n" in markdown(comparison(), ROWS[::2], [], 4)
    assert "interquartile mean, and its 95 %" in text


def test_what_others_have_published_stands_beside_it():
    tasks = {
        "one": {"config": "quickstart.yaml", "published": {"best of 13": 0.789}},
        "two": {"config": "quickstart.yaml"},
    }
    text = markdown(comparison(tasks=tasks), ROWS, [], 0)
    assert "| task | gru | delta \\| net | best of 13, published |" in text
    assert "**4.000** [-8.706, 16.706] | 0.789 |" in text
    assert "15.000 [-48.530, 78.530] |  |" in text


def test_a_table_says_what_is_missing():
    text = markdown(comparison(score="mmer"), ROWS[2:4], [], 6)
    assert "6 runs missing." in text
    assert "epoch has 65,536 steps (MMER)" in text
    assert "| two |  |  |" in text
    assert "normalised" not in text
    assert "gru | 4" not in text


def test_what_other_environments_give_stands_behind_the_scores(tmp_path):
    elsewhere = comparison(transfer={"far": ["env.num_envs=1"], "farther": ["env.num_envs=2"]})
    found = [
        {**row("two", column, seed, score), "transfer": name}
        for column, name, seed, score in [
            ("gru", "far", 0, 1.0),
            ("gru", "far", 1, 3.0),
            ("gru", "farther", 0, 5.0),
            ("delta | net", "far", 0, 7.0),
        ]
    ]
    text = markdown(elsewhere, ROWS, found, 0)
    assert "two, evaluated in other environments:" in text
    assert "one, evaluated" not in text
    assert "| far | 2.000 [-10.706, 14.706] | **7.000** |" in text
    assert "| farther | **5.000** |  |" in text
    (file,) = draw_transfer(elsewhere, found, tmp_path)
    assert file == tmp_path / "transfer_two.png"
    # the lowest and the highest of three are there, and nothing where nobody was
    picture = imread(file)[..., :3]
    for colour in (mpl.colormaps["Blues"](0.0), mpl.colormaps["Blues"](1.0), (1, 1, 1)):
        assert (np.abs(picture - colour[:3]) < 0.02).all(-1).sum() > 2_000


def test_zero_looks_like_no_guess(tmp_path):
    task = {"config": "quickstart.yaml", "range": [0.5, 1.0], "chance": 0.5}
    chosen = comparison(
        tasks={"one": task, "two": task},
        transfer={"far": ["env.num_envs=1"]},
        transfer_label="squares",
    )
    found = [
        {**row("one", "gru", 0, 0.5), "transfer": "far"},
        {**row("two", "gru", 0, 0.0), "transfer": "far"},
    ]
    assert "| squares | gru |" in markdown(chosen, ROWS, found, 0)
    files = draw_transfer(chosen, found, tmp_path)
    # half as dark in both as what is right
    for file, share in zip(files, (0.5, 0.0), strict=True):
        colour = mpl.colormaps["Blues"](share)[:3]
        assert (np.abs(imread(file)[..., :3] - colour) < 0.02).all(-1).sum() > 2_000


def test_a_point_of_one_seed_is_hollow(tmp_path):
    tasks = {
        name: {
            "config": "quickstart.yaml",
            "range": [0, 20],
            "chance": 0.0,
            "published": {"GRU": 2.0},
        }
        for name in ("one", "two")
    }
    chosen = comparison(tasks=tasks, columns={"delta": []}, published_label="published (MMER)")
    rows = [row("one", "delta", 0, 5.0), row("two", "delta", 0, 10.0)]

    def filled(of):
        draw(chosen, [], of, tmp_path)
        blue = mpl.colors.to_rgb(colours_of(["delta"])["delta"])
        return (np.abs(imread(tmp_path / "tasks.png")[..., :3] - blue) < 0.02).all(-1).sum()

    # of five seeds none is drawn by itself, on top of the mark
    five = [each | {"seed": seed} for seed in range(5) for each in rows]
    assert filled(rows) + 50 < filled(five)


@pytest.mark.parametrize(
    ("scores", "low", "high"),
    [([0.3, 0.9, 0.9], 0.0, 1.0), ([0.4, 0.9, 1.1], 0.0, 1.1), ([0.5, 0.51, 0.52], 0.48, 0.54)],
)
def test_intervals_end_where_scores_can_be(scores, low, high, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plot, "interval", lambda axes, found, *_, **__: drawn.append(found))
    tasks = {name: {"config": "quickstart.yaml", "range": [0, 1]} for name in ("one", "two")}
    chosen = comparison(tasks=tasks, columns={"delta": []})
    rows = [row(task, "delta", seed, score) for seed, score in enumerate(scores) for task in tasks]
    draw(chosen, [], rows, tmp_path)
    assert len(drawn) == 2
    for found in drawn:
        assert found == pytest.approx((np.mean(scores), low, high), abs=0.006)


def test_many_tasks_stand_beside_each_other(tmp_path, monkeypatch):
    panels = []
    monkeypatch.setattr(plot, "name_rows", lambda axes, names: panels.append((axes, names)))
    names = [f"task {number}" for number in range(15)]
    tasks = {name: {"config": "quickstart.yaml", "range": [0, 1]} for name in names}
    rows = [row(name, "delta", 0, 0.5) for name in names]
    draw(comparison(tasks=tasks, columns={"delta": []}), [], rows, tmp_path)
    # the other figure has a panel for each task, with the columns in its lines
    (first, upper), (second, lower) = [panel for panel in panels if set(panel[1]) <= set(names)]
    assert [*upper, *lower] == names
    assert first.get_position().x1 < second.get_position().x0
    assert first.get_xlim() == second.get_xlim()
    # without a score there is nothing to draw
    panels.clear()
    draw(comparison(tasks=tasks, columns={"delta": []}), [], rows[2:4], tmp_path)
    assert [names[2:4]] == [panel[1] for panel in panels if set(panel[1]) <= set(names)]


def write_metrics(directory, rows):
    directory.mkdir(parents=True)
    with (directory / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


def test_metrics_are_read_while_they_are_written(tmp_path):
    run = tmp_path / "run"
    assert steps_so_far(run) == 0
    rows = [{"step": 10, "a": 1.5}, {"step": 20, "a": 2, "b": 0}, {"step": 30, "b": 4}]
    write_metrics(run, rows)
    assert read_metrics(run, ["a"]).tolist() == [[10, 1.5], [20, 2]]
    assert read_metrics(run, ["b", "a"]).tolist() == [[20, 0, 2]]
    assert read_metrics(run, ["c"]).shape == (0, 2)
    with (run / "metrics.csv").open("a") as file:
        file.write("40,3")
    assert steps_so_far(run) == 30


def test_a_band_stands_where_all_seeds_have_been():
    one = np.array([[0.0, 0], [10, 10], [20, 20]])
    two = np.array([[5.0, 7], [25, 27]])
    found = band([one, two])
    assert found.x.tolist() == [5, 10, 20]
    assert found.mean.tolist() == [6, 11, 21]
    # of two seeds: 12.706 times the standard error of the mean, which is 1
    assert found.low.tolist() == pytest.approx([6 - 12.706, 11 - 12.706, 21 - 12.706])
    assert found.high.tolist() == pytest.approx([6 + 12.706, 11 + 12.706, 21 + 12.706])
    assert found.seeds.tolist() == [[5, 10, 20], [7, 12, 22]]
    assert np.isnan(band([one]).low).all()
    assert band([one, two[:0]]) is None
    assert band([one[:1], two]) is None


def test_figures(tmp_path):
    same = {task: {"config": "quickstart.yaml", "range": [0, 30]} for task in ("one", "two")}
    chosen = comparison(tasks=same)
    runs = runs_of(chosen, tmp_path)
    for run in runs:
        metric = "eval/mean_reward"
        rows = [{"step": s, "time/time_elapsed": s / 7, metric: s * run.seed} for s in (10, 20)]
        write_metrics(run.directory, rows)
    files = draw(chosen, runs, ROWS, tmp_path)
    names = ["curves_one.png", "curves_two.png", "scores.png", "tasks.png"]
    assert [file.name for file in files] == names
    for file in files:
        assert len(np.unique(imread(file).reshape(-1, 4), axis=0)) > 50
    assert [file.name for file in draw(chosen, runs, ROWS[:1], tmp_path)] == [
        "curves_one.png",
        "scores.png",
        "tasks.png",
    ]
    # scores on different scales, or on unknown ones, have no axis in common
    different = {**same, "one": {"config": "quickstart.yaml", "range": [0, 5]}}
    for tasks in (different, {task: {"config": "quickstart.yaml"} for task in same}):
        alone = draw(comparison(tasks=tasks), [], ROWS, tmp_path)
        assert [file.name for file in alone] == ["scores.png"]


@pytest.mark.parametrize("file", COMPARISONS, ids=lambda path: path.stem)
def test_columns_have_about_equal_parameters(file):
    chosen = load_comparison(file, ["seeds=[0]"])
    task = next(iter(chosen.tasks))
    counts = [parameters(run) for run in runs_of(chosen, Path()) if run.task == task]
    assert len(counts) == len(chosen.columns)
    # a critic by classes has more outputs than one by a number; each memory at its own defaults
    if file.stem not in {"smoke", "critics", "quickstart"}:
        assert max(counts) / min(counts) < 1.1


def parameters(run):
    setup = prepare(run.config)
    setup.envs.close()
    setup.evaluation_envs.close()
    return sum(each.numel() for each in setup.learner.policy.parameters())


def test_one_seed_of_everything_comes_first():
    runs = runs_of(comparison(total_steps=77), Path("out"))
    assert [(run.seed, run.task, run.column) for run in runs[:5]] == [
        (0, "one", "gru"),
        (0, "one", "delta | net"),
        (0, "two", "gru"),
        (0, "two", "delta | net"),
        (1, "one", "gru"),
    ]
    assert runs[1].directory == Path("out/runs/one/delta---net/0")
    assert runs[4].config.seed == 1
    assert runs[4].config.core.kind == "gru"
    assert {run.config.total_steps for run in runs} == {77}


def test_a_column_overrides_its_task():
    config = {"env": {"id": "CartPole-v1"}, "total_steps": 5, "core": {"heads": 2}}
    tasks = {"one": {"config": config, "overrides": ["ppo.epochs=2", "ppo.clip=0.5"]}}
    columns = {"a": ["core.kind=gru", "ppo.epochs=3"], "b": []}
    one, other = runs_of(comparison(tasks=tasks, columns=columns, seeds=[0]), Path())
    assert (one.config.ppo.epochs, one.config.ppo.clip, one.config.total_steps) == (3, 0.5, 5)
    assert (other.config.ppo.epochs, other.config.core.heads) == (2, 2)
    assert "core" in config


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("task={}", "task: no such key; did you mean 'tasks'?"),
        ("score=mmr", "score is 'mmr'; did you mean 'mmer'?"),
        ("columns={}", "columns has 0 entries; it should have 1 or more"),
        ("columns={a b: [], a-b: []}", "'a b' and 'a-b', of which one directory"),
        ("columns={..: []}", "columns has the name '..'"),
        ("seeds=[1, 1]", "seeds are [1, 1]; each should stand there once"),
        ("tasks.repeat_previous.range=[1, 1]", "range is (1.0, 1.0); the first should be less"),
    ],
)
def test_mistakes_in_a_file(override, complaint):
    with pytest.raises(ConfigError) as error:
        load_comparison(CONFIGS / "compare/smoke.yaml", [override])
    assert complaint in str(error.value)


def test_there_are_no_training_episodes_in_other_environments():
    with pytest.raises(ValueError, match="score is 'mmer', which is of training episodes"):
        comparison(score="mmer", transfer={"far": ["env.num_envs=1"]})


def test_a_mistake_in_a_run_says_which():
    with pytest.raises(ConfigError, match=r"one, gru: core.kind is 'gruu'; did you mean 'gru'"):
        runs_of(comparison(columns={"gru": ["core.kind=gruu"]}), Path())


def test_a_run_without_checkpoints_is_not_there(tmp_path):
    config = load_run_config(CONFIGS / "quickstart.yaml")
    assert final_evaluation(comparison(), Run("one", "gru", 0, tmp_path, config)) is None
