"""Signals at every phase of a training: it leaves in time, with everything saved."""

import os
import signal
import threading
import time
from unittest import mock

import pytest
from command_line import run_command
from kill_and_resume import checkpoint_fingerprint, metrics_rows, write_config

from agents import ppo
from agents.saving import list_checkpoints
from fwrl.files.checkpoint import load_checkpoint
from fwrl.run import build as setup
from fwrl.run import diagnostics, saver
from fwrl.run import loop as training

# the same training again and again; test_cli.py checks its shapes
pytestmark = pytest.mark.unchecked

# seconds within which a training must end
PROMISED = 10.0
SHORT = "total_steps=512", "evaluation.every_steps=256"


def fingerprint(run):
    # types are checked here on samples, which are drawn by Python's generator
    return checkpoint_fingerprint(run, without=("generator.python",))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    config = write_config("task", folder)
    assert run_command("train", config, *SHORT, "--run-dir", folder / "run") == 0
    return config, fingerprint(folder / "run"), metrics_rows(folder / "run")


def signalled(function, number, call):
    """The function, which receives a signal at its ``call``-th call."""
    calls = []

    def wrapper(*arguments, **keywords):
        calls.append(None)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return function(*arguments, **keywords)

    return wrapper


PHASES = {
    "warm-up": (setup, "make_envs", 1),
    "rollout": (training, "collect", 3),
    "update": (training, "ppo_update", 3),
    "evaluation": (training, "evaluate", 1),
    "film": (diagnostics, "pictures_of", 1),
    "log": (training, "state_norm", 3),
    "save": (saver, "save_checkpoint", 2),
    "verification": (saver, "verify_checkpoint", 1),
}


# one handler serves all signals
EVERY = [(phase, signal.SIGTERM) for phase in PHASES]
EVERY += [
    (phase, number)
    for phase in ("rollout", "save")
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
]


@pytest.mark.parametrize(("phase", "number"), EVERY)
def test_a_signal_in_any_phase(phase, number, whole, tmp_path, capsys):
    config, expected, expected_rows = whole
    run = tmp_path / "run"
    words = ["train", config, *SHORT, "evaluation.film_steps=9", "--run-dir", run]
    place, name, call = PHASES[phase]
    with mock.patch.object(place, name, signalled(getattr(place, name), number, call)):
        began = time.monotonic()
        assert run_command(*words, "--fresh") == 75
        assert time.monotonic() - began < PROMISED
    said = capsys.readouterr().out
    assert f"stopped and saved; it goes on with\nfwrl train {config} total_steps=512" in said
    assert "--fresh" not in said
    load_checkpoint(list_checkpoints(run)[-1])
    assert run_command(*words) == 0
    assert (fingerprint(run), metrics_rows(run)) == (expected, expected_rows)
    # what was there before is there again
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_second_interrupt_ends_at_once(whole, tmp_path):
    config, *_ = whole
    run = tmp_path / "run"

    def stuck(*_):
        os.kill(os.getpid(), signal.SIGINT)
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        time.sleep(30)

    with mock.patch.object(training, "ppo_update", stuck):
        began = time.monotonic()
        assert run_command("train", config, "--run-dir", run) == 130
        assert time.monotonic() - began < 15
    assert [folder.name for folder in list_checkpoints(run)] == ["0"]


def test_a_long_update_is_left_in_the_middle(whole, tmp_path):
    config, *_ = whole
    run, steps = tmp_path / "run", []

    def slow(*arguments):
        # another five minutes would follow
        steps.append(None)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    original = ppo.clipped_step
    with mock.patch.object(ppo, "clipped_step", slow):
        assert run_command("train", config, "ppo.epochs=1000", "--run-dir", run) == 75
    assert len(steps) == 3
    assert [folder.name for folder in list_checkpoints(run)] == ["0"]
