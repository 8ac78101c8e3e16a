"""Trainings that are killed: at any moment, and before and in the middle of every write to disk."""

import os
import random
import sys
from pathlib import Path

import pytest
from kill_and_resume import (
    PATIENCE,
    checkpoint_fingerprint,
    kill_until_finished,
    metrics_rows,
    run_to_end,
    start_fwrl,
    write_config,
)

from agents.saving import list_checkpoints

KILLS = 10
# Saves three times: at the start, in the middle and at the end.
SHORT = "total_steps=128", "evaluation.every_steps=64"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Undisturbed trainings: the configuration, the fingerprint and the rows."""
    found = {}

    def train(name, *overrides):
        if (name, overrides) not in found:
            folder = tmp_path_factory.mktemp(name)
            config, run = write_config(name, folder, minutes=0.0005), folder / "run"
            assert run_to_end("train", config, *overrides, "--run-dir", run) == 0
            found[name, overrides] = config, checkpoint_fingerprint(run), metrics_rows(run)
        return found[name, overrides]

    return train


def test_killed_at_any_moment(whole, tmp_path):
    generator, count = random.Random(0), 0
    while count < KILLS:
        name = generator.choice(["task", "cartpole"])
        config, expected, expected_rows = whole(name)
        run = tmp_path / f"{name}{count}"
        count += kill_until_finished(config, run, generator, longest=1.5, kills=8)
        assert checkpoint_fingerprint(run) == expected
        assert metrics_rows(run) == expected_rows


# what happens to files; the first argument of these is a file's name
EVENTS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.link"}
CRASHED = 99


def die_at(number, torn, run, *words):
    """A life that ends at the ``number``-th event in its directory; torn: with half a file."""
    process = start_fwrl(*words, before=_install_death, arguments=(number, torn, str(run)))
    process.join(PATIENCE)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def _install_death(number, torn, run):
    seen = {"events": 0, "written": None}

    def watch(event, arguments):
        if event not in EVENTS or not str(arguments[0]).startswith(run):
            return
        reads = event == "open" and not set(str(arguments[1])) & set("wax+")
        if reads and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        seen["events"] += 1
        if seen["events"] == number:
            if torn and seen["written"] and os.path.exists(seen["written"]):
                half = os.path.getsize(seen["written"]) // 2
                descriptor = os.open(seen["written"], os.O_WRONLY)
                os.ftruncate(descriptor, half)
            os._exit(CRASHED)
        if event == "open" and (arguments[2] or 0) & (os.O_TRUNC | os.O_EXCL):
            # but what is appended to was brought to the disk before a checkpoint relied on it
            seen["written"] = str(arguments[0])

    sys.addaudithook(watch)


FEW = [
    pytest.param(remainder, marks=pytest.mark.slow if remainder else ()) for remainder in range(12)
]


@pytest.mark.parametrize("remainder", FEW)
def test_killed_at_every_event_of_a_file(remainder, whole, tmp_path):
    config, expected, expected_rows = whole("task", *SHORT)
    number = 1 + remainder
    while True:
        run = tmp_path / str(number)
        words = ["train", config, *SHORT, "--run-dir", run]
        code = die_at(number, bool(number % 2), run, *words)
        saved = [int(folder.name) for folder in list_checkpoints(run)] if run.exists() else []
        if code != CRASHED:
            break
        # a second crash, while what the first has left is mended
        die_at(3 + number % 7, not number % 2, run, *words)
        said = tmp_path / f"{number}.said"
        assert run_to_end(*words, output=said) == 0, Path(said).read_text()
        assert checkpoint_fingerprint(run) == expected
        assert metrics_rows(run) == expected_rows
        assert max(saved, default=0) <= 128
        number += len(FEW)
    assert code == 0
    assert number > 40
