"""Faults around a training: numbers that are not finite, full disks, failing environments."""

import csv
import os
import resource
import shutil
import subprocess
import sys
from unittest import mock

import gymnasium
import numpy as np
import pytest
import torch
from answering_env import registered_answers
from command_line import run_command
from kill_and_resume import (
    checkpoint_fingerprint,
    metrics_rows,
    run_to_end,
    start_fwrl,
    write_config,
)

from agents import ppo
from agents.rollout import Episodes
from agents.saving import list_checkpoints
from fwrl.files.checkpoint import load_checkpoint
from fwrl.run import loop as training
from fwrl.run import saver
from fwrl.run.event_file import EventFile
from fwrl.run.faults import FaultReport
from fwrl.run.saver import undefined_in

# the same training again and again; test_cli.py checks its shapes
pytestmark = pytest.mark.unchecked


@pytest.fixture
def config(tmp_path):
    return write_config("task", tmp_path)


def column(run, name):
    with (run / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def everything_saved_is_finite(run):
    for folder in list_checkpoints(run):
        assert undefined_in(load_checkpoint(folder)) is None
    return True


class SpoiltLoss:
    """The loss of PPO, which is undefined at some calls: two minibatches, two epochs."""

    def __init__(self, spoilt, how):
        self.calls, self.spoilt, self.how, self.original = 0, spoilt, how, ppo.ppo_loss

    def __call__(self, policy, *arguments):
        self.calls += 1
        if self.calls not in self.spoilt:
            return self.original(policy, *arguments)
        if self.how == "parameter":
            with torch.no_grad():
                policy.value.weight.fill_(torch.nan)
        loss, metrics = self.original(policy, *arguments)
        match self.how:
            case "loss":
                loss = loss * torch.nan
            case "gradient":
                loss = loss + (policy.value.bias * 0.0).sqrt().sum()
            case "infinity":
                loss = loss * torch.inf
        return loss, metrics


@pytest.mark.parametrize("how", ["loss", "gradient", "infinity"])
def test_an_update_that_would_spoil_the_policy_is_left_out(how, config, tmp_path):
    run = tmp_path / "run"
    with mock.patch.object(ppo, "ppo_loss", SpoiltLoss({6, 7}, how)):
        assert run_command("train", config, "total_steps=512", "--run-dir", run) == 0
    assert column(run, "health/skipped_updates") == [0, 2, 2, 2, 2, 2, 2, 2]
    assert column(run, "train/n_updates") == [4, 2, 4, 4, 4, 4, 4, 4]
    assert set(column(run, "health/rollbacks")) == {0}
    assert everything_saved_is_finite(run)


def test_what_does_not_pass_is_taken_back_to_the_last_checkpoint(config, tmp_path, capsys):
    run = tmp_path / "run"
    with mock.patch.object(ppo, "ppo_loss", SpoiltLoss(range(37, 49), "loss")):
        assert run_command("train", config, "total_steps=1024", "--run-dir", run) == 0
    said = capsys.readouterr().out
    assert "the gradient was not finite in 3 iterations in a row" in said
    assert "taken back to that of 512 steps" in said
    assert column(run, "health/rollbacks")[-1] == 1
    assert column(run, "health/skipped_updates")[-1] == 12
    assert np.isnan(column(run, "train/grad_norm")[10])
    assert np.isfinite(column(run, "train/loss")[-1])
    assert everything_saved_is_finite(run)


def test_a_policy_that_is_not_finite_is_taken_back_before_it_acts(config, tmp_path, capsys):
    run = tmp_path / "run"
    with mock.patch.object(ppo, "ppo_loss", SpoiltLoss({37}, "parameter")):
        assert run_command("train", config, "total_steps=1024", "--run-dir", run) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "output is not finite: its value.weight is not; the policy is taken back to that" in said
    assert column(run, "health/rollbacks")[-1] == 1
    assert column(run, "health/skipped_updates")[-1] == 4
    assert column(run, "health/env_faults")[-1] == 0
    assert np.isfinite(column(run, "train/loss")[-1])
    assert everything_saved_is_finite(run)


def test_what_never_passes_ends_the_training(config, tmp_path, capsys):
    run = tmp_path / "run"
    with mock.patch.object(ppo, "ppo_loss", SpoiltLoss(range(5, 10_000), "loss")):
        assert run_command("train", config, "--run-dir", run) == 1
    assert "taken back 3 times, it does not help" in capsys.readouterr().out
    assert everything_saved_is_finite(run)
    assert list_checkpoints(run)
    # the cause is gone: the same command goes on
    assert run_command("train", config, "total_steps=512", "--run-dir", run) == 0


def test_nothing_undefined_is_saved(config, tmp_path, capsys):
    run = tmp_path / "run"
    original = training.ppo_update

    def spoil(policy, *arguments):
        metrics = original(policy, *arguments)
        if len(list_checkpoints(run)) == 1 and not spoilt:
            spoilt.append(True)
            with torch.no_grad():
                policy.value.bias.fill_(torch.inf)
        return metrics

    spoilt = []
    # saved at every iteration: the first one would take it
    words = ["checkpoint.every_minutes=0.000001", "total_steps=512"]
    with mock.patch.object(training, "ppo_update", spoil):
        assert run_command("train", config, *words, "--run-dir", run) == 0
    assert "value.bias is not finite, it is not saved; the policy is taken back" in (
        capsys.readouterr().out.replace("\n", " ")
    )
    assert everything_saved_is_finite(run)


class Undefined(gymnasium.Env):
    """Observes NaN, earns infinity, or raises, in some of its episodes."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, how="observation", share=0.5):
        self.how, self.share, self.steps, self.breaks = how, share, 0, False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.breaks = 0, self.np_random.random() < self.share
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        observation, reward = np.full(2, 0.5, np.float32), 1.0
        if self.steps == 7 and self.breaks:
            match self.how:
                case "observation":
                    observation[1] = np.nan
                case "reward":
                    reward = np.inf
                case "raise":
                    raise RuntimeError("the engine has stalled")
                case "exit":
                    sys.exit()
        return observation, reward, False, self.steps == 10, {}


@pytest.fixture
def undefined():
    gymnasium.register("Undefined-v0", Undefined)
    yield
    del gymnasium.registry["Undefined-v0"]


@pytest.mark.parametrize("how", ["observation", "reward", "raise", "exit"])
def test_an_environment_that_breaks_is_replaced_and_counted(how, undefined, tmp_path, capsys):
    run = tmp_path / "run"
    config = write_config("cartpole", tmp_path)
    words = ["train", config, "env.id=Undefined-v0", f"env.options={{how: {how}}}"]
    assert run_command(*words, "total_steps=512", "--run-dir", run) == 0
    faults = column(run, "health/env_faults")
    # about every other of the episodes, which take about 8 steps in each of four environments
    assert 20 < faults[-1] < 45
    assert faults == sorted(faults)
    assert column(run, "health/skipped_updates")[-1] == 0
    assert everything_saved_is_finite(run)
    assert "Undefined-v0" in capsys.readouterr().out


def test_an_environment_that_always_breaks_ends_the_training(undefined, tmp_path, capsys):
    run = tmp_path / "run"
    config = write_config("cartpole", tmp_path)
    words = ["train", config, "env.id=Undefined-v0", "env.options={share: 1.0}", "--run-dir", run]
    assert run_command(*words) == 1
    *_, counted, why = capsys.readouterr().out.splitlines()
    assert "no episode ended without a fault in 3 iterations in a row" in why
    assert "observation: nan at [1], which is not finite" in why
    assert " such faults so far; the latest: Undefined-v0: slot" in counted
    # nothing that was learned is lost
    rows = column(run, "time/total_timesteps")
    assert [folder.name for folder in list_checkpoints(run)] == ["0", str(int(rows[-1]))]
    assert len(rows) == 3


class Faults:
    """A report of faults, and all that it said."""

    def __init__(self):
        self.said = []
        self.report = FaultReport(self.said.append)


def test_equal_faults_are_counted_and_not_repeated():
    faults = Faults()
    for number in range(20_000):
        place = f"Faulty-v0: slot {number % 7}, episode seed {number}, after {number % 30} actions"
        faults.report.tell([f"{place}: reward: {number / 2}; it should be smaller"])
        if number == 5000:
            faults.report.tell([f"{place}: terminated: None; it should be True or False"])
    faults.report.close()
    assert len(faults.said) == 2 + 14 + 1
    assert faults.said[0].endswith("after 0 actions: reward: 0.0; it should be smaller")
    assert faults.said[1].startswith(
        "2 such faults so far; the latest: Faulty-v0: slot 1, episode seed 1"
    )
    assert sum("terminated" in line for line in faults.said) == 1
    assert faults.said[-1].startswith("20,000 such faults so far; the latest: Faulty-v0: slot 0")


def test_faults_that_all_differ_are_counted_together():
    faults = Faults()
    for number in range(5000):
        word = "".join(chr(97 + number // 26**place % 26) for place in range(4))
        faults.report.tell([f"Faulty-v0: {word}"])
    faults.report.close()
    assert len(faults.said) < 120
    assert faults.said[-1].startswith("4,900 other faults so far; the latest: Faulty-v0: ")


@pytest.mark.parametrize(
    ("sound", "faults", "ends"),
    [
        (0, 256, True),
        (0, 3, True),
        # long episodes under way: few of the steps were lost
        (0, 2, False),
        (1, 255, False),
        (4, 0, False),
        (0, 0, False),
    ],
)
def test_only_a_training_of_nothing_but_faults_ends(sound, faults, ends):
    report = Faults().report
    episodes = Episodes([1.0] * sound, [1] * sound, [None] * sound, ["it broke"] * faults)
    assert [bool(report.nothing_but(episodes, 256)) for _ in range(4)] == [False] * 2 + [ends] * 2
    report.nothing_but(Episodes([1.0], [1], [None], []), 256)
    assert not report.nothing_but(episodes, 256)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_environment_that_exits_costs_an_episode(workers, tmp_path, capsys):
    words = ["train", write_config("cartpole", tmp_path), "env.id=Answering-v0"]
    words += ["env.options={part: raises, kind: zero}", f"env.workers={workers}"]
    run = tmp_path / "run"
    with registered_answers():
        assert run_command(*words, "total_steps=512", "--run-dir", run) == 1
    assert "SystemExit: 0" in capsys.readouterr().out.splitlines()[-1]
    assert len(list_checkpoints(run)) == 2


def limited(size):
    """The process that calls this cannot write files beyond a size, as if the disk were full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_full_disk_does_not_end_a_training_and_costs_no_checkpoint(config, tmp_path):
    run, said = tmp_path / "run", tmp_path / "said"
    words = ["train", config, "--run-dir", run]
    assert run_to_end(*words, "total_steps=512") == 0
    before = {p: p.read_bytes() for p in (run / "checkpoints").rglob("*.*")}
    # too little for the policy, enough for nothing but small files
    process = start_fwrl(
        *words, "total_steps=1536", output=said, before=limited, arguments=(12_000,)
    )
    process.join(120)
    assert process.exitcode == 1
    text = said.read_text()
    assert "not saved" in text
    assert "1,536 of 1,536 steps" in text or "1,536 steps: evaluated" in text
    assert {p: p.read_bytes() for p in (run / "checkpoints").rglob("*.*")} == before
    # there is space again
    assert run_to_end(*words, "total_steps=1536") == 0
    whole = tmp_path / "whole"
    assert run_to_end("train", config, "--run-dir", whole, "total_steps=512") == 0
    assert run_to_end("train", config, "--run-dir", whole, "total_steps=1536") == 0
    assert checkpoint_fingerprint(run) == checkpoint_fingerprint(whole)
    assert metrics_rows(run) == metrics_rows(whole)


def test_a_disk_that_is_full_for_a_while(config, tmp_path):
    run, original, failures = tmp_path / "run", saver.save_checkpoint, []

    def fail(*arguments):
        if len(list_checkpoints(run)) == 1 and len(failures) < 2:
            failures.append(None)
            raise OSError(28, "No space left on device")
        return original(*arguments)

    words = ["train", config, "total_steps=2048", "--run-dir", run]
    with (
        mock.patch.object(saver, "save_checkpoint", fail),
        mock.patch.object(saver, "FIRST_RETRY", 0.01),
    ):
        assert run_command(*words) == 0
    assert column(run, "health/save_errors")[-1] == 2
    assert [folder.name for folder in list_checkpoints(run)][-1] == "2048"


def test_a_disk_that_stays_full_ends_the_training(config, tmp_path, capsys):
    run, original = tmp_path / "run", saver.save_checkpoint

    def fail(*arguments):
        if list_checkpoints(run):
            raise OSError(28, "No space left on device")
        return original(*arguments)

    with (
        mock.patch.object(saver, "save_checkpoint", fail),
        mock.patch.object(saver, "FIRST_RETRY", 0.0),
    ):
        assert run_command("train", config, "--run-dir", run) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "checkpoints could not be written 10 times in a row" in said
    assert column(run, "health/save_errors")[-1] == 10
    assert [folder.name for folder in list_checkpoints(run)] == ["0"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to mount")
def test_a_tiny_disk(config, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount here")
    try:
        run = disk / "run"
        words = ["train", config, "--run-dir", run, "total_steps=512"]
        assert run_to_end(*words) == 0
        with (disk / "filler").open("wb") as filler:
            filler.write(bytes(shutil.disk_usage(disk).free - 8192))
        said = tmp_path / "said"
        assert run_to_end(*words[:-1], "total_steps=1024", output=said) in (1, 2)
        assert "not saved" in said.read_text() or "are free on its disk" in said.read_text()
        assert [folder.name for folder in list_checkpoints(run)][-1] == "512"
        load_checkpoint(list_checkpoints(run)[-1])
        (disk / "filler").unlink()
        assert run_to_end(*words[:-1], "total_steps=1024") == 0
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_log_that_cannot_be_written_is_counted(config, tmp_path):
    run, original = tmp_path / "run", training.RunLog.write

    def fail(log, step, metrics):
        with mock.patch.object(EventFile, "add") as add:
            if step == 192:
                add.side_effect = OSError(28, "full")
            return original(log, step, metrics)

    with mock.patch.object(training.RunLog, "write", fail):
        assert run_command("train", config, "total_steps=512", "--run-dir", run) == 0
    assert column(run, "health/log_errors") == [0, 0, 0, 1, 1, 1, 1, 1]
