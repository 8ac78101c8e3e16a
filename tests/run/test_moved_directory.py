"""A directory that is moved, deleted or replaced while a command works in it."""

import os
import shlex
import shutil
import signal
from pathlib import Path
from unittest import mock

import pytest
from command_line import run_command
from kill_and_resume import checkpoint_fingerprint, metrics_rows, write_config

from agents.saving import list_checkpoints
from fwrl.cli import bench
from fwrl.config import ConfigError
from fwrl.run import loop as training
from fwrl.run.directory import command_to_continue, staying
from fwrl.run.jobs import Children

# the same training again and again; test_cli.py checks its shapes
pytestmark = pytest.mark.unchecked

WORDS = ["total_steps=512", "evaluation.every_steps=128"]


def replace(run):
    run.rename(run.with_name("elsewhere"))
    run.mkdir()
    (run / "mine").write_text("somebody else's")


def link_elsewhere(run):
    run.rename(run.with_name("elsewhere"))
    run.with_name("other").mkdir()
    run.symlink_to(run.with_name("other"))


HOW = {
    "moved": lambda run: run.rename(run.with_name("elsewhere")),
    "deleted": shutil.rmtree,
    "replaced": replace,
    "linked": link_elsewhere,
    "its parent moved": lambda run: run.parent.rename(run.parent.with_name("archive")),
    "its parent deleted": lambda run: shutil.rmtree(run.parent),
}
# iteration -> what comes in it: nothing, an evaluation, the end, a signal
WHEN = {"an iteration": 3, "an evaluation": 4, "the last iteration": 8, "a signal": 5}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    config = write_config("task", folder)
    assert run_command("train", config, *WORDS, "--run-dir", folder / "run") == 0
    return config, checkpoint_fingerprint(folder / "run"), metrics_rows(folder / "run")


def disturbed(action, number, signalled=False):
    """Training in which something happens in the ``number``-th iteration."""
    original, calls = training._iterate, []

    def iterate(job):
        calls.append(None)
        if len(calls) == number:
            action()
            if signalled:
                os.kill(os.getpid(), signal.SIGTERM)
        return original(job)

    return mock.patch.object(training, "_iterate", iterate)


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("how", HOW)
def test_the_run_is_written_whole_beside_its_place(how, when, whole, tmp_path, capsys):
    config, expected, rows = whole
    run = tmp_path / "runs/run"
    words = ["train", config, *WORDS, "--run-dir", run]
    with disturbed(lambda: HOW[how](run), WHEN[when], when == "a signal"):
        assert run_command(*words) == 1
    told = capsys.readouterr()
    said = [line for line in told.out.splitlines() if "was moved, deleted or replaced" in line]
    assert len(said) == 1
    assert "Traceback" not in told.err
    rescued = tmp_path / "runs/run.1"
    assert f"the run is saved in {rescued} and goes on with: " in said[0]
    steps = int(list_checkpoints(rescued)[-1].name)
    # at most the iteration under way is lost
    assert steps >= 64 * (WHEN[when] - 1)
    # nothing was put where the directory was
    left = {"replaced": ["mine"], "linked": []}.get(how)
    assert left is None or os.listdir(run) == left
    assert left is not None or not run.exists()
    _, *again = shlex.split(said[0].split("goes on with: ")[1])
    assert run_command(*again) == 0
    assert checkpoint_fingerprint(rescued) == expected
    assert metrics_rows(rescued) == rows
    assert (rescued / "command.txt").exists()
    assert (rescued / "versions.json").exists()


def test_without_a_place_beside_it_a_line_is_left(whole, tmp_path, capsys):
    config, *_ = whole
    run = tmp_path / "runs/run"

    def deleted():
        shutil.rmtree(run.parent)
        # a file where the folder was: nothing can be made in it
        run.parent.write_text("")

    with disturbed(deleted, 3):
        assert run_command("train", config, *WORDS, "--run-dir", run) == 1
    assert "and the run cannot be saved beside it" in " ".join(capsys.readouterr().out.split())
    assert run.parent.read_text() == ""


def test_the_command_that_goes_on_has_imports_and_mirror(monkeypatch):
    for typed, expected in (
        (["fwrl", "train", "a", "--import", "m n", "x=1"], "fwrl train {} --import 'm n'"),
        (["/x/fwrl", "train", "--import=m", "a", "--fresh"], "fwrl train {} --import=m"),
        (["fwrl", "train", "a", "--track", "wandb"], "fwrl train {} --track wandb"),
        (["/x/train.py", "train", "a"], "python train.py {}"),
        (["/x/fwrl/__main__.py", "train", "a"], "python -m fwrl train {}"),
    ):
        monkeypatch.setattr("sys.argv", typed)
        words = "'a b/config.yaml' --run-dir 'a b'"
        assert command_to_continue(Path("a b")) == expected.format(words)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("error", [None, FileNotFoundError("gone"), ConfigError("a line")])
def test_other_commands_say_so(how, error, tmp_path):
    out = tmp_path / "runs/run"
    out.mkdir(parents=True)

    def work():
        with staying(out):
            HOW[how](out)
            if error:
                raise error

    with pytest.raises(ConfigError, match="was moved, deleted or replaced while"):
        work()
    with pytest.raises(ValueError, match="another"), staying(tmp_path):
        raise ValueError("another")


COMMANDS = {
    "bench": ["bench", "retrieval", "--preset", "smoke", "--jobs", 1, "sizes=[4]", "seeds=[0]"],
    "bench in processes": [
        "bench", "retrieval", "--preset", "smoke", "--jobs", 2, "sizes=[4,5]", "seeds=[0]",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("command", "how"),
    [
        *(("bench", how) for how in HOW),
        # a worker may write into what is just being deleted
        ("bench in processes", "moved"),
        *(
            pytest.param("bench in processes", how, marks=pytest.mark.slow)
            for how in ("replaced", "its parent moved")
        ),
    ],
)
def test_a_benchmark_whose_folder_goes(command, how, tmp_path, capsys):
    out = tmp_path / "runs/run"
    original, calls = bench.write_rows, []

    def write_rows(*arguments):
        if not calls:
            calls.append(HOW[how](out))
        return original(*arguments)

    with mock.patch.object(bench, "write_rows", write_rows):
        assert run_command(*COMMANDS[command], "--out", out) == 2
    error = capsys.readouterr().err
    assert "was moved, deleted or replaced" in error
    assert error.count("\n") == 1


COMPARISON = """
tasks: {easy: {config: task.yaml}}
columns: {none: [core.kind=none]}
seeds: [0]
episodes: 1
"""
SEARCH = "{config: task.yaml, space: {ppo.epochs: {choices: [1]}}, total_steps: 100000, trials: 1}"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["moved", "replaced"])
@pytest.mark.parametrize("command", ["compare", "tune"])
def test_a_comparison_or_a_search_whose_folder_goes(command, how, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_config("task", tmp_path)
    Path("compare.yaml").write_text(COMPARISON)
    Path("tune.yaml").write_text(SEARCH)
    out, original, calls = Path("runs/run"), Children.ended, []

    def ended(self):
        if not calls and list(out.rglob("manifest.json")):
            calls.append(HOW[how](out))
        return original(self)

    monkeypatch.setattr(Children, "ended", ended)
    words = [command, f"{command}.yaml", "total_steps=100000", "--out", out, "--jobs", 1]
    assert run_command(*words) == 2
    assert calls
    error = capsys.readouterr().err
    assert "runs/run: was moved, deleted or replaced" in error
    assert error.count("\n") == 1
    # what the training itself had reached
    assert list(Path("runs").glob("run/*/**/0.1/checkpoints/*/manifest.json"))
