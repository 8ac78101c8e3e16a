"""The mirror of TensorBoard at Weights & Biases: the same values, and no harm from its failures."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import yaml
from command_line import InterruptAt, run_command
from kill_and_resume import checkpoint_fingerprint, metrics_rows, start_fwrl, write_config
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fwrl.run import track

# the same training again and again; test_cli.py checks its shapes
pytestmark = pytest.mark.unchecked

ALL = {"scalars": 0, "images": 0, "tensors": 0}
WORDS = ["evaluation.film_steps=12", "evaluation.every_steps=128", "total_steps=256"]
MIRRORED = ["--track", "wandb"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_config("task", tmp_path_factory.mktemp("configuration"))


@pytest.fixture(scope="module")
def plain(config, tmp_path_factory):
    """The end and the table of the same training, which nobody mirrors."""
    run = tmp_path_factory.mktemp("plain") / "run"
    assert run_command("train", config, *WORDS, "--run-dir", run) == 0
    return checkpoint_fingerprint(run), metrics_rows(run)


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """A training that the real library mirrors on the disk; it was stopped, and continued."""
    pytest.importorskip("wandb")
    run = tmp_path_factory.mktemp("mirrored") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        with InterruptAt(115):
            assert run_command("train", config, *WORDS, "--run-dir", run, *MIRRORED) == 75
        assert run_command("train", config, *WORDS, "--run-dir", run, *MIRRORED) == 0
    return run


def mirrored(run):
    # needs the library
    from wandb_file import history  # noqa: PLC0415

    return history(run)


def test_every_number_picture_and_film_of_tensorboard_is_there(run):
    board, there = EventAccumulator(str(run), size_guidance=ALL), mirrored(run)
    board.Reload()
    tags = board.Tags()
    # the page of hyper-parameters adds a number of its own
    assert set(there) == {*tags["scalars"], *tags["images"]} - {"hp_metric"}
    for tag in set(tags["scalars"]) & set(there):
        # results of no step belong to that page too
        expected = {event.step: event.value for event in board.Scalars(tag) if event.step}
        found = {step: float(value) for step, (value, _) in there[tag].items()}
        assert found.keys() == expected.keys(), tag
        np.testing.assert_array_equal([found[step] for step in expected], list(expected.values()))
    assert len(there["train/loss"]) == 4
    for tag in tags["images"]:
        expected = {event.step: event.encoded_image_string for event in board.Images(tag)}
        assert there[tag].keys() == expected.keys()
        for step, (value, folder) in there[tag].items():
            data = (folder / "files" / value["path"]).read_bytes()
            assert frames(data) == frames(expected[step])
    assert there["eval/episode"][128][0]["_type"] == "video-file"


def frames(data):
    picture, found = Image.open(io.BytesIO(data)), []
    for number in range(getattr(picture, "n_frames", 1)):
        picture.seek(number)
        found.append(np.asarray(picture.convert("RGB")).tobytes())
    return found


def test_a_continued_run_goes_on_under_its_name(run):
    from wandb_file import configuration  # noqa: PLC0415

    name = json.loads((run / "track.json").read_text())["wandb"]
    files = sorted(run.glob("wandb/*run-*/*.wandb"))
    assert [path.name for path in files] == [f"run-{name}.wandb"] * 2
    steps = [set(mirrored_steps(path)) for path in files]
    assert steps[0]
    assert steps[1]
    assert sorted(steps[0] | steps[1]) == [64, 128, 192, 256]
    stored = yaml.safe_load((run / "config.yaml").read_text())
    for path in files:
        said = configuration(path)
        assert {key: said[key] for key in stored} == stored


def mirrored_steps(path):
    from wandb_file import records  # noqa: PLC0415

    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            yield record.history.step.num


def test_the_training_is_the_same_bit_for_bit(run, plain):
    assert (checkpoint_fingerprint(run), metrics_rows(run)) == plain


def test_no_code_outputs_or_packages_are_kept(run):
    names = {path.name for path in run.glob("wandb/*run-*/files/*")}
    assert names == {"media"}


class Error(Exception):
    """The library's own error."""


def fails(kind):
    def raising(*_, **__):
        raise kind("no\nserver")

    return raising


def waits(*_, **__):
    threading.Event().wait(30)


def library(**parts):
    """A stand-in for the library, with parts that were chosen."""
    run = SimpleNamespace(log=lambda _, step: None, finish=lambda: None, url="https://there")
    for name in {"log", "finish"} & parts.keys():
        setattr(run, name, parts.pop(name))
    settings = SimpleNamespace(settings=SimpleNamespace(mode="online"))
    whole = ModuleType("wandb")
    vars(whole).update(
        Error=Error, Settings=dict, setup=lambda _: settings, login=lambda **_: True,
        init=lambda **_: run, Image=list, Video=list,
    )  # fmt: skip
    vars(whole).update(parts)
    return whole


FAULTS = {
    "init": fails(Error),
    "init otherwise": fails(OSError),
    "init hangs": waits,
    "log": fails(Error),
    "log hangs": waits,
    "finish": fails(TimeoutError),
    "finish hangs": waits,
    "Image": fails(SystemError),
    "Video": fails(Error),
}


@pytest.mark.parametrize("name", FAULTS)
def test_no_failure_of_the_library_reaches_the_training(
    name, config, plain, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "wandb", library(**{name.split()[0]: FAULTS[name]}))
    monkeypatch.setattr(track, "PATIENCE", 0.2)
    monkeypatch.setattr(track, "MOST_WAITING", 2)
    run = tmp_path / "run"
    assert run_command("train", config, *WORDS, "--run-dir", run, *MIRRORED) == 0
    assert (checkpoint_fingerprint(run), metrics_rows(run)) == plain
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wandb: ")]
    told = [line for line in lines if "the training goes on" in line or "not all was sent" in line]
    assert 1 <= len(told) <= 2
    assert len(lines) <= len(told) + 1


def test_where_no_server_answers_it_is_written_to_the_disk(config, tmp_path, monkeypatch, capsys):
    begun, written = [], []

    def init(mode="online", **given):
        begun.append((mode, given["id"]))
        if mode == "online":
            raise Error("no route")
        return SimpleNamespace(
            log=lambda values, step: written.append(step), finish=lambda: None, url=None
        )

    monkeypatch.setitem(sys.modules, "wandb", library(init=init))
    run = tmp_path / "a run"
    assert run_command("train", config, *WORDS, "--run-dir", run, *MIRRORED) == 0
    (first, name), (second, again) = begun
    assert (first, second, name) == ("online", "offline", again)
    assert written[-1] == 256
    out = capsys.readouterr().out
    assert "wandb: no route; the training goes on" in out
    assert f"wandb: `wandb sync '{run}/wandb'/offline-run-*` sends it" in out


def kill_its_process():
    """Let the library's own process be killed at the third summary."""
    add, count = track.Mirror.add, []

    def adding(mirror, *rest):
        count.append(rest)
        if len(count) == 3:
            children = subprocess.check_output(
                ["ps", "-o", "pid=,comm=", "--ppid", str(os.getpid())]
            )
            for pid, name in map(str.split, children.decode().splitlines()):
                if name.startswith("wandb-core"):
                    os.kill(int(pid), signal.SIGKILL)
        add(mirror, *rest)

    track.Mirror.add = adding
    os.environ["WANDB_MODE"] = "offline"


@pytest.mark.slow
def test_the_process_of_the_library_may_be_killed(config, plain, tmp_path):
    pytest.importorskip("wandb")
    run, log = tmp_path / "run", tmp_path / "log"
    words = ("train", config, *WORDS, "--run-dir", run, *MIRRORED)
    process = start_fwrl(*words, output=log, before=kill_its_process)
    process.join(120)
    assert process.exitcode == 0, log.read_text()
    assert (checkpoint_fingerprint(run), metrics_rows(run)) == plain


def link(path):
    path.symlink_to("elsewhere")


MISTAKES = {
    "no such tracker": ({}, ["--track", "wandbb"], "--track is 'wandbb'; did you mean 'wandb'?"),
    "not installed": (None, MIRRORED, "--track wandb needs the package wandb; pip install 'fwrl[t"),
    "a folder": (ModuleType("wandb"), MIRRORED, "--track wandb needs the package wandb; pip inst"),
    "no key": (
        library(login=lambda **_: False),
        MIRRORED,
        "--track wandb: not logged in; `wandb login`, or set WANDB_MODE=offline",
    ),
    "error": (library(login=fails(Error)), MIRRORED, "--track wandb: no server"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_before_anything_is_written(name, config, tmp_path, monkeypatch, capsys):
    stand_in, words, line = MISTAKES[name]
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    run = tmp_path / "run"
    assert run_command("train", config, *WORDS, "--run-dir", run, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fwrl: {line}")
    assert error.count("\n") == 1
    assert not run.exists()


STRANGE = {
    "wandb": (
        lambda path: path.symlink_to("elsewhere"),
        "is a symbolic link; it should be a folder",
    ),
    "track.json": (lambda path: path.symlink_to("elsewhere"), "is a symbolic link; it should be"),
}
NAMES = [
    "{}",
    "[]",
    '{"wandb": "../../x"}',
    '{"wandb": 3}',
    '{"wandb": ""}',
    '{"wandb": "a/b"}',
    "{",
]


@pytest.mark.parametrize("content", [*STRANGE, *NAMES])
def test_a_strange_directory_is_refused_in_one_line(content, config, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", library())
    run = tmp_path / "run"
    assert run_command("train", config, "total_steps=64", "--run-dir", run) == 0
    make, line = STRANGE.get(content, (None, ""))
    if make is None:
        (run / "track.json").write_text(content)
    else:
        make(run / content)
    rows = metrics_rows(run)
    capsys.readouterr()
    assert run_command("train", config, "total_steps=128", "--run-dir", run, *MIRRORED) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert not (tmp_path / "elsewhere").exists()
    assert metrics_rows(run) == rows
