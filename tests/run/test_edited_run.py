"""A run whose files somebody has changed: continuing says what differs, and joins no rows."""

import csv
import os
import shutil

import pytest
import yaml
from command_line import run_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kill_and_resume import metrics_rows, write_config

from agents.saving import list_checkpoints
from fwrl.files.checkpoint import load_checkpoint, save_checkpoint
from fwrl.files.plain_files import FileError
from fwrl.run.table import STEP, TABLE, columns_of, cut_table, read_metrics

# the same training again and again; test_cli.py checks its shapes
pytestmark = pytest.mark.unchecked


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    config = write_config("task", folder)
    assert run_command("train", config, "total_steps=256", "--run-dir", folder / "run") == 0
    return folder


@pytest.fixture
def run(original, tmp_path, capsys):
    capsys.readouterr()
    return shutil.copytree(original / "run", tmp_path / "run")


def first_line(capsys):
    return " ".join(capsys.readouterr().out.split("fast_weight memory")[0].split())


def continued(run, *words):
    return run_command("train", run / "config.yaml", "total_steps=320", "--run-dir", run, *words)


def test_a_configuration_edited_by_hand_is_told(run, capsys):
    values = yaml.safe_load((run / "config.yaml").read_text())
    values["ppo"]["discount"] = 0.5
    values["seed"] = 7
    # whatever may change is not told
    values["checkpoint"]["keep"] = 5
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    assert continued(run) == 0
    assert "but not bit for bit: ppo.discount was 0.99 and is 0.5; seed was 0 and is 7" in (
        first_line(capsys)
    )
    assert continued(run, "total_steps=384") == 0
    assert "continues at 320 steps, bit for bit" in first_line(capsys)


@pytest.mark.parametrize("said", [None, 5, {"ppo": 3}, {"nonsense": 1}])
def test_what_a_checkpoint_says_of_its_configuration(said, run, capsys):
    folder = list_checkpoints(run)[-1]
    content = load_checkpoint(folder)
    assert content.document["run"]["ppo"]["discount"] == 0.99
    assert "total_steps" not in content.document["run"]
    document = content.document | {"run": said}
    save_checkpoint(folder, content.tensors, document)
    assert continued(run) == 0
    # checkpoints of before say nothing
    expected = "bit for bit" if said is None else "bit for bit: its configuration cannot be read"
    assert expected in first_line(capsys)


@pytest.mark.parametrize("cut", [-1, -40, 12, 0])
def test_a_table_cut_anywhere_goes_on_with_whole_rows(cut, run, capsys):
    table = run / TABLE
    whole = table.read_bytes()
    size = cut if cut >= 0 else len(whole) + cut
    table.write_bytes(whole[:size])
    assert continued(run) == 0
    lost = len(whole) - (whole[:size].rfind(b"\n") + 1)
    assert f"not bit for bit: metrics.csv lacks {lost:,} bytes of its rows" in first_line(capsys)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert rows[-1]["step"] == "320"
    assert all(None not in row and None not in row.values() for row in rows)


DAMAGES = {
    "missing": (lambda table, _: table.unlink(), "metrics.csv is missing, a new one begins"),
    "not UTF-8": (lambda table, _: table.write_bytes(b"\xff,1\n" * 500), "it is now metrics.csv.1"),
    "zeros": (lambda table, _: table.write_bytes(bytes(4000) + b"\n"), "it is now metrics.csv.1"),
    "another table": (lambda table, _: table.write_text("a,b\n" * 2000), "no column 'step'"),
    "a link": (
        lambda table, other: (table.rename(other), table.symlink_to(other)),
        "is a symbolic link; it should be a file; it is now metrics.csv.1",
    ),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_table_that_is_none_is_kept_and_begun_anew(how, run, tmp_path, capsys):
    damage, said = DAMAGES[how]
    damage(run / TABLE, tmp_path / "other.csv")
    before = (run / TABLE).read_bytes() if how != "missing" else None
    assert continued(run) == 0
    line = first_line(capsys)
    assert "not bit for bit" in line
    assert said in line
    assert [row["step"] for row in metrics_rows(run)] == ["320"]
    if before is not None:
        assert (run / "metrics.csv.1").read_bytes() == before
    assert continued(run, "total_steps=384") == 0
    assert "bit for bit" in first_line(capsys)


def test_a_pipe_for_a_table_is_refused(run, capsys):
    (run / TABLE).unlink()
    os.mkfifo(run / TABLE)
    assert continued(run) == 2
    assert "metrics.csv: cannot be written, it is no regular file" in capsys.readouterr().err


def test_missing_events_are_told(run, capsys):
    (events,) = run.glob("events*")
    size = events.stat().st_size
    os.truncate(events, size - 100)
    assert continued(run) == 0
    assert f"not bit for bit: {events.name} lacks 100 bytes" in first_line(capsys)
    events.unlink()
    assert continued(run, "total_steps=384") == 0
    assert f"{events.name} lacks {size - 100:,} bytes" in first_line(capsys)


@pytest.mark.parametrize("log", [None, [], "log", {TABLE: "many"}, {TABLE: -1}, {TABLE: True}])
def test_positions_that_are_none(log, run, capsys):
    before = metrics_rows(run)
    folder = list_checkpoints(run)[-1]
    content = load_checkpoint(folder)
    save_checkpoint(folder, content.tensors, content.document | {"log": log})
    with (run / TABLE).open("a") as file:
        file.write("12,half a r")
    assert continued(run) == 0
    assert metrics_rows(run)[:-1] == before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(0, 10**9), max_size=6),
    st.binary(max_size=12),
    st.one_of(st.none(), st.integers(0, 80)),
)
def test_no_rows_are_glued(tmp_path, steps, rest, size):
    path = tmp_path / TABLE
    (tmp_path / "metrics.csv.1").unlink(missing_ok=True)
    whole = b"".join([b"step,a/b\n", *(b"%d,1\n" % step for step in steps)])
    path.write_bytes(whole + rest)
    said = cut_table(path, size)
    kept = path.read_bytes() if path.exists() else b""
    assert kept == b"" or kept.endswith(b"\n")
    assert (whole + rest).startswith(kept)
    if size is not None:
        assert len(kept) <= size
        assert (said is None) == (len(kept) >= size)
    with path.open("ab") as file:
        file.write(b"" if kept else b"step,a/b\n")
        file.write(b"77,2\n")
    if b"\n" not in rest and columns_of(path)[:1] == [STEP]:
        assert read_metrics(tmp_path, ["a/b"])[-1].tolist() == [77, 2]


def test_a_table_of_anything_but_numbers(tmp_path):
    for text in ("step,a/b\nx,1\n", "step,a/b\nnan,1\n", "step,a/b\n1,two\n", "step,a/b\n1,\0\n"):
        (tmp_path / TABLE).write_text(text)
        with pytest.raises(FileError, match="not a table of metrics"):
            read_metrics(tmp_path, ["a/b"])
    # a short row has no such metric
    (tmp_path / TABLE).write_text("step,a/b\n1\n2,3\n")
    assert read_metrics(tmp_path, ["a/b"]).tolist() == [[2, 3]]
