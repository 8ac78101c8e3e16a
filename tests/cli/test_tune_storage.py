"""The storage of a search: torn journals, studies of strangers, and passwords."""

import json
import os
import shutil
from pathlib import Path

import optuna
import pytest
from command_line import run_command
from hypothesis import given
from hypothesis import strategies as st
from special_targets import patience

from fwrl.cli.tune.settings import load_tuning
from fwrl.cli.tune.study import FOLDER, JOURNAL, Study
from fwrl.config import ConfigError, OneLineError, without_passwords
from fwrl.files.plain_files import FileError
from fwrl.run.directory import command_typed

FILE = """
config:
  env: {id: fwrl/RepeatPrevious-v0, num_envs: 4}
  total_steps: 5000
space:
  ppo.epochs: {low: 1, high: 4}
total_steps: 300
"""


@pytest.fixture(scope="module")
def tuning(tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "small.yaml"
    path.write_text(FILE)
    return load_tuning(path, [])


def opened(tuning, folder, said=None):
    return Study(tuning, "small", None, folder, [].append if said is None else said.append)


@pytest.fixture(scope="module")
def journal(tuning, tmp_path_factory):
    """The journal of a study with three trials that have ended."""
    folder = tmp_path_factory.mktemp("study")
    study = opened(tuning, folder)
    for value in (1.0, 2.0, 3.0):
        study.complete(study.ask(), value)
    return (folder / JOURNAL).read_bytes()


def values_in(study):
    return [trial.value for trial in study.trials()]


@given(share=st.floats(0, 1))
def test_a_journal_torn_anywhere_goes_on(share, tuning, journal, tmp_path_factory):
    folder, size = tmp_path_factory.mktemp("torn"), int(share * len(journal))
    (folder / JOURNAL).write_bytes(journal[:size])
    said = []
    study = opened(tuning, folder, said)
    known = [value for value in values_in(study) if value]
    assert known == [1.0, 2.0, 3.0][: len(known)]
    whole = journal[:size].rfind(b"\n") + 1
    assert (folder / JOURNAL).read_bytes().startswith(journal[:whole])
    expected = [f"{size - whole:,} bytes of a torn line at its end are cut off"]
    assert [line.split(": ")[1] for line in said] == (expected if size > whole else [])
    study.complete(study.ask(), 9.0)
    assert 9.0 in values_in(opened(tuning, folder))


@pytest.mark.parametrize("half", [b'{"op_code":5,"wor', b"\0" * 40, b"\xff{", b'{"op_code":3}['])
def test_what_somebody_wrote_behind_half_a_line_is_kept(half, tuning, journal, tmp_path):
    lines = journal.splitlines(keepends=True)
    torn = b"".join([*lines[:-1], half, lines[-1]])
    (tmp_path / JOURNAL).write_bytes(torn)
    said = []
    study = opened(tuning, tmp_path, said)
    assert values_in(study) == [1.0, 2.0, 3.0]
    assert "1 torn lines are left out; it is kept as it was in" in said[0]
    assert (tmp_path / f"{JOURNAL}.1").read_bytes() == torn
    assert not (tmp_path / f"{JOURNAL}.lock").exists()


def test_a_journal_is_no_link_and_no_pipe(tuning, journal, tmp_path):
    victim, folder = tmp_path / "victim", tmp_path / "out"
    folder.mkdir()
    victim.write_bytes(journal)
    (folder / JOURNAL).symlink_to(victim)
    with pytest.raises(FileError, match="is a symbolic link; it should be a file"):
        opened(tuning, folder)
    assert victim.read_bytes() == journal
    (folder / JOURNAL).unlink()
    os.mkfifo(folder / JOURNAL)
    with patience(), pytest.raises(FileError, match="is no regular file"):
        opened(tuning, folder)


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "..", "", 7, ["0000"], "0000/x"])
def test_a_study_names_no_folder_elsewhere(name, tuning, journal, tmp_path, monkeypatch, capsys):
    lines = [json.loads(line) for line in journal.splitlines()]
    for line in lines:
        if FOLDER in (attributes := line.get("user_attr", {})):
            attributes[FOLDER] = name
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(FILE)
    Path("shared").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    words = ["tune", "small.yaml", "--storage", "shared", "--out", "out", "--trials", 4]
    assert run_command(*words) == 2
    told = capsys.readouterr().err
    assert f"names the folder {name!r}" in told
    assert told.count("\n") == 1
    assert not Path("out/trials").exists()
    assert not list(tmp_path.parent.glob("escaped*"))


ADDRESSES = {
    "postgresql://me:secret@host/db": "postgresql://me:***@host/db",
    "postgresql://me:se/c@ret@host/db": "postgresql://me:***@host/db",
    "mysql+pymysql://me:secret@host:3306/db": "mysql+pymysql://me:***@host:3306/db",
    "postgresql://host/db?user=me&password=secret&x=1": "postgresql://host/db?user=me&password=***&x=1",
    "redis://:secret@host": "redis://:***@host",
    "sqlite:///a/b.db": "sqlite:///a/b.db",
}  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_passwords_are_masked_everywhere(address, tmp_path, monkeypatch, capsys):
    masked = ADDRESSES[address]
    assert without_passwords(f"at {address}") == f"at {masked}"
    assert str(OneLineError(f"--storage is {address!r}: x")) == f"--storage is {masked!r}: x"
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(FILE)
    words = ["fwrl", "tune", "small.yaml", "--storage", address]
    monkeypatch.setattr("sys.argv", words)
    assert "secret" not in command_typed()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    if address.startswith("sqlite"):
        return
    # no driver, or no server
    assert run_command(*words[1:], "--out", "out") == 2
    told = capsys.readouterr()
    assert "cannot be opened" in told.err
    assert told.err.count("\n") == 1
    texts = [told.err, told.out, *(p.read_text() for p in Path("out").rglob("*") if p.is_file())]
    assert not [text for text in texts if "secret" in text or "c@ret" in text]
    shutil.rmtree("out")


def test_a_study_of_other_things_is_one_line(tuning, tmp_path):
    for text in ("[]\n", '{"op_code":99}\n', '{"op_code":0}\n', '{"a":1}\n'):
        (tmp_path / JOURNAL).write_text(text)
        try:
            opened(tuning, tmp_path)
        except ConfigError as error:
            assert "cannot be opened" in str(error)  # noqa: PT017


def test_a_storage_that_fails_later_is_one_line(tuning, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(FILE)

    def fail(*_):
        raise optuna.exceptions.StorageInternalError("mysql://me:secret@host does not answer")

    for error in (fail, lambda *_: json.loads("{")):
        with monkeypatch.context() as patch:
            patch.setattr(Study, "ask", error)
            assert run_command("tune", "small.yaml", "--out", "out", "--trials", 1) == 2
        told = capsys.readouterr().err
        assert "the storage of the study fails" in told
        assert told.count("\n") == 1
        assert "secret" not in told
