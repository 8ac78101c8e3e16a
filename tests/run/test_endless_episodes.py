"""Episodes that never end: evaluations are given up with one line, and trainings lose nothing."""

import csv
import io
import os
import signal
import time

import gymnasium
import numpy as np
import pytest
from command_line import run_command
from gymnasium import spaces
from kill_and_resume import checkpoint_fingerprint, metrics_rows, write_config
from rich.console import Console
from scheduled_env import EPISODES, ScheduledEnv, small_policy

from agents.evaluation import LONGEST_EPISODE, EndlessError, evaluate
from agents.saving import list_checkpoints
from envs import AtariConfig, GymnasiumConfig, most_steps
from envs.check.conformance import check
from fwrl.run import evaluation, progress
from fwrl.run import loop as training
from fwrl.run.progress import ProgressReport, evaluation_status

NEVER = 10**9
LIMIT = 60


class Endless(gymnasium.Env):
    """Pays for the right one of three actions, for ever."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.show(), {}

    def step(self, action):
        reward = float(action == self.goal)
        return self.show(), reward, False, False, {}

    def show(self):
        self.goal = int(self.np_random.integers(3))
        return np.eye(3, dtype=np.float32)[self.goal]


@pytest.fixture(autouse=True, scope="module")
def registered():
    gymnasium.register("Endless-v0", Endless)
    yield
    del gymnasium.registry["Endless-v0"]


@pytest.fixture
def short(monkeypatch):
    """Episodes are endless after fewer steps."""
    monkeypatch.setattr(training, "LONGEST_EPISODE", LIMIT)
    monkeypatch.setattr(evaluation, "LONGEST_EPISODE", LIMIT)


def test_an_evaluation_without_end_is_given_up():
    envs = ScheduledEnv([[(NEVER, "t")], [(NEVER, "t")]])
    with pytest.raises(EndlessError) as error:
        evaluate(small_policy(envs), envs, 3, seed=0, longest=50)
    assert str(error.value) == "no episode has ended after 50 steps; set env.max_episode_steps"
    assert len(envs.actions) == 50


def test_an_episode_without_end_beside_others_that_end():
    envs = ScheduledEnv([[(2, "t")], [(3, "t"), (NEVER, "t")]])
    with pytest.raises(EndlessError, match=r"^an episode has not ended after 50 steps; set env\."):
        evaluate(small_policy(envs), envs, 4, seed=0, longest=50)
    # nothing is wanted of the second slot after its first episode
    envs = ScheduledEnv([[(80, "t")], [(3, "t"), (NEVER, "t")]])
    assert evaluate(small_policy(envs), envs, 2, seed=0, longest=81).lengths == [3, 80]


def test_an_evaluation_tells_how_far_it_is():
    told = []
    policy, envs = small_policy(ScheduledEnv(EPISODES)), ScheduledEnv(EPISODES)
    found = evaluate(policy, envs, 4, seed=0, watch=lambda *numbers: told.append(numbers))
    assert [steps for _, steps in told] == list(range(1, len(envs.actions)))
    assert [ended for ended, _ in told] == sorted(ended for ended, _ in told)
    assert len(found.returns) == 4


def test_environments_that_allow_longer_episodes_say_so():
    assert most_steps(GymnasiumConfig(id="CartPole-v1")) == 500
    assert most_steps(GymnasiumConfig(id="CartPole-v1", max_episode_steps=10**6)) == 10**6
    assert most_steps(GymnasiumConfig(id="Endless-v0")) == 0
    assert most_steps(AtariConfig(game="pong")) == 27_000
    assert most_steps(AtariConfig(game="pong", frame_skip=1)) > LONGEST_EPISODE


def endless(folder, env_id="Endless-v0"):
    return ["train", write_config("cartpole", folder), f"env.id={env_id}", "total_steps=1024"]


def column(run, name):
    with (run / "metrics.csv").open() as file:
        return [row[name] for row in csv.DictReader(file)]


@pytest.mark.unchecked
@pytest.mark.parametrize("env_id", ["Endless-v0", "CliffWalking-v1"])
def test_a_training_goes_on_without_these_figures(env_id, short, tmp_path, capsys):
    run = tmp_path / "run"
    assert run_command(*endless(tmp_path, env_id), "--run-dir", run) == 0
    said = capsys.readouterr().out
    line = f"not evaluated: no episode has ended after {LIMIT} steps; set env.max_episode_steps"
    assert said.count(line) >= 2
    assert not any(column(run, "eval/mean_reward"))
    assert column(run, "time/total_timesteps")[-1] == "1024.0"
    assert list_checkpoints(run)[-1].name == "1024"
    assert run_command("evaluate", run, "--episodes", 3) == 1
    error = capsys.readouterr().err
    assert error == f"fwrl: no episode has ended after {LIMIT} steps; set env.max_episode_steps\n"
    words = ["--episodes", 3, "env.max_episode_steps=70"]
    assert run_command("evaluate", run, *words) == 0
    # the last one is the best, as none has a score
    assert f"{run}/checkpoints/1024" in capsys.readouterr().out.replace("\n", "")
    assert run_command("inspect", run, "--max-steps", 20) == 0


@pytest.mark.unchecked
def test_a_signal_during_such_an_evaluation(short, tmp_path, monkeypatch):
    words = endless(tmp_path)
    assert run_command(*words, "--run-dir", tmp_path / "whole") == 0
    run, calls = tmp_path / "run", []
    show = ProgressReport.show_evaluation

    def stop(self, *numbers):
        calls.append(numbers)
        if len(calls) == LIMIT // 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return show(self, *numbers)

    monkeypatch.setattr(ProgressReport, "show_evaluation", stop)
    assert run_command(*words, "--run-dir", run) == 75
    assert len(calls) == LIMIT // 2
    assert run_command(*words, "--run-dir", run) == 0
    # the continued run makes the evaluation again, and gives it up too
    assert len(calls) > LIMIT // 2 + LIMIT
    assert metrics_rows(run) == metrics_rows(tmp_path / "whole")
    first, second = (checkpoint_fingerprint(each) for each in (run, tmp_path / "whole"))
    assert first == second


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("where", [io.StringIO, Terminal])
def test_progress_moves_during_evaluations(where, monkeypatch):
    monkeypatch.setattr(progress, "LINE_INTERVAL", 0.05)
    monkeypatch.setattr(progress, "COUNT_INTERVAL", 0.0)
    output = where()
    report = ProgressReport(Console(file=output, width=200), 1000, 0)
    for steps in range(1, 4):
        report.show_evaluation(steps - 1, 100, steps)
        time.sleep(0.12)
    report.show(500, 1.0)
    report.close()
    assert "evaluating: 2 of 100 episodes, 3 steps" in output.getvalue()


def test_an_evaluation_shows_its_progress_on_a_terminal(monkeypatch):
    output = Terminal()
    monkeypatch.setattr(progress, "COUNT_INTERVAL", 0.0)
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=output, width=100))
    with evaluation_status(100) as watch:
        watch(7, 345)
        time.sleep(0.3)
    assert "evaluating: 7 of 100 episodes, 345 steps" in output.getvalue()


def test_check_env_says_that_no_episode_ended(monkeypatch):
    monkeypatch.setattr("envs.check.timing.SECONDS", 0.02)
    report = check(GymnasiumConfig(id="Endless-v0"), steps=120)
    (found,) = [finding for finding in report.findings if finding.name == "ends"]
    assert found.verdict == "note"
    assert found.what.startswith("no episode ended within 120 steps")
    assert "set max_episode_steps" in found.advice
