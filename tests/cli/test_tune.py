"""``fwrl tune``: what is tried, what ends early, what continues, and what is written."""

import importlib
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from command_line import run_command
from matplotlib.image import imread

from fwrl.bench.results import read_rows
from fwrl.cli.tune import command as tuning
from fwrl.cli.tune.settings import load_tuning, trial_config
from fwrl.config import ConfigError
from fwrl.run.config import load_run_config
from fwrl.run.exit_codes import STOPPED
from fwrl.run.jobs import OUTPUT, Children, Ended

CONFIGS = Path(__file__).parents[2] / "configs"
FILE = """
config:
  env: {id: fwrl/RepeatPrevious-v0, num_envs: 4}
  stack: {width: 16}
  ppo: {num_steps: 16, minibatches: 2}
  evaluation: {every_steps: 100, episodes: 4, num_envs: 2}
  total_steps: 5000
space:
  ppo.learning_rate: {low: 1e-4, high: 1e-2, log: true}
  ppo.epochs: {low: 1, high: 4}
  core.heads: {choices: [1, 2]}
total_steps: 300
pruner: {startup_trials: 2}
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(FILE)
    return "small.yaml"


class Curves(Children):
    """Stands for the processes: one more evaluation each time that somebody looks.

    A trial's evaluations come from ``values``, by its folder; None there is a failure.
    """

    def __init__(self, values, interrupt_at=None):
        super().__init__()
        self.values, self.interrupt_at = values, interrupt_at
        self.stopped, self.started = [], []

    def __call__(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.running = {}

    def start(self, name, commands, directory, num_threads):
        assert num_threads == 1
        (directory / OUTPUT).write_text("it begins\nand breaks")
        self.running[name] = []
        for first, config, flag, run in commands:
            assert (first, flag) == ("train", "--run-dir")
            assert Path(config).parent == Path(run)
            self.running[name].append(Path(run))
        self.started.append(name)

    def stop(self, names):
        self.stopped += names

    def ended(self):
        found = []
        for name, runs in list(self.running.items()):
            if name in self.stopped:
                found.append(Ended(name, STOPPED))
            elif self.values[name] is None:
                found.append(Ended(name, 1))
            elif all(self.advance(name, run) for run in runs):
                found.append(Ended(name, 0))
        for each in found:
            del self.running[each.name]
        if len(self.started) == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    def advance(self, name, run):
        """Write the next evaluation; whether there are no more."""
        path = run / "metrics.csv"
        lines = path.read_text().splitlines() if path.exists() else ["step,eval/mean_reward"]
        values = self.values[name]
        if len(lines) <= len(values):
            # rollouts do not end where evaluations are due
            lines.append(f"{len(lines) * 100 + 28},{values[len(lines) - 1] + int(run.name)}")
            path.write_text("\n".join(lines) + "\n")
            return False
        return True


@pytest.fixture
def search(monkeypatch):
    """Runs the command over curves; ``search(curves, ...)`` is its exit code."""
    monkeypatch.setattr(tuning, "INTERVAL", 0.0)
    monkeypatch.setattr(tuning, "LOOK", 0.0)

    def run(curves, *words):
        monkeypatch.setattr(tuning, "Children", curves)
        return run_command("tune", *words, "--jobs", 1)

    return run


GOOD, BETTER, BAD = [1.0, 2.0, 3.0], [1.0, 2.0, 4.0], [0.5, 9.0, 9.0]


def test_the_hopeless_end_early(file, search, capsys):
    curves = Curves({"0000": GOOD, "0001": BETTER, "0002": BAD, "0003": None})
    assert search(curves, file, "--trials", 4, "--out", "out") == 0
    assert curves.stopped == ["0002"]
    rows = read_rows(Path("out/trials.csv"))
    assert [row["state"] for row in rows] == ["complete", "complete", "pruned", "fail"]
    assert [row.get("value") for row in rows] == [3, 4, 0.5, None]
    assert rows[3]["reason"].endswith("ends with: and breaks")
    assert all(1e-4 <= row["ppo.learning_rate"] <= 1e-2 for row in rows)
    assert all(row["ppo.epochs"] in (1, 2, 3, 4) for row in rows)
    out = capsys.readouterr().out
    assert "3/4  trial 0002: pruned at 0.5" in out
    assert "4/4  trial 0003: failed exit code 1" in out
    assert len(np.unique(imread("out/trials.png").reshape(-1, 4), axis=0)) > 50

    written = Path("out/best.yaml").read_text()
    assert written.startswith("# trial 1 of 4: eval/mean_reward 4\n")
    best = load_run_config(Path("out/best.yaml"))
    run = load_run_config(Path("out/trials/0001/0/config.yaml"))
    # a search is shorter than the training that it is for
    assert (best.total_steps, run.total_steps) == (5000, 300)
    assert best.ppo == run.ppo
    assert best.ppo.learning_rate == rows[1]["ppo.learning_rate"]
    assert best.core.heads == rows[1]["core.heads"]


def test_what_was_stopped_continues(file, search, capsys):
    curves = Curves({"0000": GOOD, "0001": BETTER}, interrupt_at=2)
    assert search(curves, file, "--trials", 2, "--out", "out") == 75
    assert "the same command continues" in capsys.readouterr().out
    config = Path("out/trials/0001/0/config.yaml").read_text()
    again = Curves({"0001": BETTER, "0003": GOOD})
    assert search(again, file, "--trials", 3, "--out", "out") == 0
    # the folder stays, the study counts it as another trial
    assert again.started == ["0001", "0003"]
    assert Path("out/trials/0001/0/config.yaml").read_text() == config
    rows = read_rows(Path("out/trials.csv"))
    assert [row["runs"] for row in rows] == ["trials/0000", "trials/0001", "trials/0003"]
    assert [row["value"] for row in rows] == [3, 4, 3]
    nobody = Curves({})
    assert search(nobody, file, "--trials", 3, "--out", "out") == 0
    assert not nobody.started


def test_what_was_killed_continues(file, search):
    def killed(*_):
        raise MemoryError

    curves = Curves({"0000": GOOD})
    curves.ended = killed
    with pytest.MonkeyPatch.context() as patch:
        # nothing can be told any more
        patch.setattr(tuning.Study, "set_back", lambda *_: None)
        with pytest.raises(MemoryError):
            search(curves, file, "--trials", 1, "--out", "out")
    again = Curves({"0000": GOOD})
    assert search(again, file, "--trials", 1, "--out", "out") == 0
    assert again.started == ["0000"]
    assert [row["runs"] for row in read_rows(Path("out/trials.csv"))] == ["trials/0000"]


def test_a_trial_of_several_seeds_is_worth_their_mean(file, search):
    curves = Curves({"0000": GOOD})
    assert search(curves, file, "seeds=[0, 4]", "--trials", 1, "--out", "out") == 0
    assert read_rows(Path("out/trials.csv"))[0]["value"] == 5.0
    seeds = [Path(f"out/trials/0000/{seed}/config.yaml") for seed in (0, 4)]
    assert [load_run_config(path).seed for path in seeds] == [0, 4]


def test_evaluations_of_a_trial(tmp_path, file):
    chosen = load_tuning(Path(file), ["seeds=[1, 2]"])
    configs = [trial_config(chosen, {}, seed, "x") for seed in chosen.seeds]
    running = tuning.Running(None, tmp_path, configs)
    assert tuning.evaluations(chosen, running) == []
    tables = {1: "128,1\n228,2\n320,4\n", 2: "228,8\n"}
    for seed, text in tables.items():
        (tmp_path / str(seed)).mkdir()
        (tmp_path / f"{seed}/metrics.csv").write_text(f"step,eval/mean_reward\n{text}")
    found = tuning.evaluations(chosen, running)
    assert found == [(100, 1), (200, 2), (300, 4), (500, 6)]


def test_a_real_trial(file, capsys):
    assert run_command("tune", file, "--trials", 1) == 0
    (row,) = read_rows(Path("runs/tune__small/trials.csv"))
    run = Path("runs/tune__small/trials/0000/0")
    table = read_rows(run / "metrics.csv")
    assert row["value"] == table[-1]["eval/mean_reward"]
    assert table[-1]["step"] == 320
    assert (
        run_command("train", "runs/tune__small/best.yaml", "total_steps=64", "--run-dir", "a") == 0
    )


def test_another_study_is_refused(file, search, capsys):
    search(Curves({"0000": GOOD}), file, "--trials", 1, "--storage", "shared", "--out", "a")
    words = [file, "total_steps=400", "--storage", "shared", "--out", "b"]
    assert search(Curves({}), *words) == 2
    assert "has another space or other settings" in capsys.readouterr().err
    # another machine adds to it
    more = Curves({"0001": GOOD})
    words = [file, "--trials", 2, "--storage", "shared", "--out", "c"]
    assert search(more, *words) == 0
    assert more.started == ["0001"]


def test_without_optuna(tmp_path, monkeypatch, capsys):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert (
        run_command("tune", CONFIGS / "tune/key_value_recall.yaml", "--out", tmp_path / "out") == 2
    )
    assert "tune needs the package optuna; pip install 'fwrl[tune]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("space", "complaint"),
    [
        ({"ppo.gamma": {"low": 0.9, "high": 1}}, "ppo.gamma: no such key; here it is called"),
        ({"seed": {"low": 0, "high": 1}}, "space has seed, which makes no other agent"),
        ({"ppo.clip": {"low": 0.5, "high": 0.1}}, "low is 0.5; it should be less than high"),
        ({"ppo.clip": {"low": 0.0, "high": 0.1, "log": True}}, "low should be above 0"),
        ({"ppo.clip": {"high": 0.1}}, "it should have choices, or low and high"),
        ({"ppo.clip": {"choices": [0.1], "low": 0.1}}, "choices and low are both given"),
        ({"ppo.clip": {"choices": []}}, "choices has no values"),
        (
            {"core.kind": {"choices": ["fast_weight", "gru"]}, "core.heads": {"choices": [2]}},
            "core.heads: no such key",
        ),
    ],
)
def test_mistakes_in_a_file(tmp_path, space, complaint):
    path = tmp_path / "a.yaml"
    path.write_text(json.dumps({"config": "quickstart.yaml", "total_steps": 9, "space": space}))
    with pytest.raises(ConfigError) as error:
        load_tuning(path, [])
    assert complaint in str(error.value)


@pytest.mark.parametrize("path", sorted((CONFIGS / "tune").glob("*.yaml")), ids=lambda p: p.stem)
def test_our_searches_can_be_made(path):
    assert load_tuning(path, []).space
    assert yaml.safe_load(path.read_text())["trials"] > 10
