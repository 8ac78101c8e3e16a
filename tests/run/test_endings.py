"""Endings that are no exception: closed outputs, hang-ups, hangs, and code that exits."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from unittest import mock

import pytest
from command_line import run_command
from kill_and_resume import write_config

from agents.saving import list_checkpoints
from fwrl.files.checkpoint import load_checkpoint
from fwrl.run import loop as training
from fwrl.run.exit_codes import FAILED, FINISHED, STOPPED

SHORT = "total_steps=2048", "evaluation.every_steps=1024"
LONG = "total_steps=1000000", "checkpoint.every_minutes=60"


@contextmanager
def started(words, folder, variables=None, **options):
    process = subprocess.Popen(
        [sys.executable, "-m", "fwrl", *map(str, words)],
        cwd=folder,
        env=os.environ | (variables or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def saved_steps(run):
    folder = list_checkpoints(run)[-1]
    load_checkpoint(folder)
    return int(folder.name)


def read_until(process, words):
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"never said {words!r}: {process.stderr.read()}")


@pytest.fixture
def config(tmp_path):
    return write_config("task", tmp_path)


def test_the_reader_leaves(config, tmp_path):
    with started(["train", config, *LONG, "--run-dir", "run"], tmp_path) as process:
        read_until(process, "parameters")
        process.stdout.close()
        assert process.wait(60) == STOPPED
        said = process.stderr.read()
        assert said.startswith("fwrl: nobody reads the output any more\n")
        assert "stopped and saved; it goes on with\n" in said
        assert "Traceback" not in said
        assert saved_steps(tmp_path / "run") > 0


def test_nobody_ever_read(config, tmp_path):
    words = f"{sys.executable} -m fwrl train {config} {' '.join(SHORT)} --run-dir run >&- 2>&- <&-"
    assert subprocess.run(words, shell=True, cwd=tmp_path, check=False).returncode == FINISHED
    assert saved_steps(tmp_path / "run") == 2048


def test_a_terminal_without_these_characters(config, tmp_path):
    folder = tmp_path / "späße"
    folder.mkdir()
    with started(
        ["train", config, *SHORT, "--run-dir", folder],
        tmp_path,
        {"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"},
    ) as process:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (FINISHED, "")
        assert "sp\\xe4\\xdfe" in out


def test_hang_up(config, tmp_path):
    with started(["train", config, *LONG, "--run-dir", "run"], tmp_path) as process:
        read_until(process, "parameters")
        process.send_signal(signal.SIGHUP)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == STOPPED
        assert "stopped and saved" in out


def test_hang_up_under_nohup(config, tmp_path):
    with started(
        ["train", config, *SHORT, "--run-dir", "run"],
        tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    ) as process:
        read_until(process, "parameters")
        process.send_signal(signal.SIGHUP)
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == FINISHED


HANGING = """
import time
import gymnasium

class Hanging(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.observation_space.sample() * 0, {}

    def step(self, action):
        global steps
        steps += 1
        if steps == hangs_at:
            print("it hangs", flush=True)
            while True:
                time.sleep(0.01)
        self.time += 1
        return self.observation_space.sample() * 0, 1.0, self.time == 10, False, {}

steps = 0
hangs_at = {hangs_at}
gymnasium.register("Hanging-v0", Hanging)
"""
HANGS = """
env: {id: Hanging-v0, num_envs: 2}
ppo: {num_steps: 16, minibatches: 1}
stack: {width: 16}
total_steps: 320
"""


def test_an_environment_hangs(tmp_path):
    (tmp_path / "hanging.py").write_text(HANGING.replace("{hangs_at}", "100"))
    (tmp_path / "hangs.yaml").write_text(HANGS)
    with started(
        ["train", "hangs.yaml", "--import", "hanging", "--run-dir", "run"], tmp_path
    ) as process:
        read_until(process, "it hangs")
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 10
        assert (process.returncode, err) == (STOPPED, "")
        assert "stopped and saved; it goes on with" in out
        # 100 steps are three whole iterations of 32
        assert saved_steps(tmp_path / "run") == 96


def test_it_hangs_before_anything_was_learnt(tmp_path):
    (tmp_path / "hanging.py").write_text(HANGING.replace("{hangs_at}", "1"))
    (tmp_path / "hangs.yaml").write_text(HANGS)
    with started(
        ["train", "hangs.yaml", "--import", "hanging", "--run-dir", "run"], tmp_path
    ) as process:
        read_until(process, "it hangs")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == STOPPED
        assert saved_steps(tmp_path / "run") == 0


class Panic(BaseException):
    """Stands for a panic of a library in Rust, which is no Exception."""


@pytest.mark.parametrize("error", [SystemExit(0), Panic("index out of\nbounds")])
def test_code_that_ends_the_process(error, config, tmp_path, capsys):
    calls = []

    def ends(*arguments):
        calls.append(None)
        if len(calls) == 3:
            raise error
        return collect(*arguments)

    collect = training.collect
    with mock.patch.object(training, "collect", ends):
        assert run_command("train", config, *SHORT, "--run-dir", tmp_path / "run") == FAILED
    assert saved_steps(tmp_path / "run") == 2 * 64
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(("ended by SystemExit: 0", "ended by Panic: index out of bounds"))


@pytest.mark.parametrize(
    "words", [["list"], ["list", "cores"], ["bench", "favor", "--preset", "smoke"]]
)
def test_the_reader_of_any_command_leaves(words, tmp_path):
    with started(words, tmp_path) as process:
        process.stdout.close()
        assert process.wait(120) == STOPPED
        assert "Traceback" not in process.stderr.read()
