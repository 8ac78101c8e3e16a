"""``fwrl inspect`` as a user types it: what it writes, and what it refuses in one line."""

import shutil
import sys
from pathlib import Path

import pytest

from fwrl.cli import main

SOLVED = Path(__file__).parents[1] / "golden/solved_repeat_previous"


def fwrl(monkeypatch, capsys, *words):
    """Exit code, standard output and standard error of ``fwrl inspect``."""
    monkeypatch.setattr(sys, "argv", ["fwrl", "inspect", *map(str, words)])
    with pytest.raises(SystemExit) as leave:
        main()
    return leave.value.code, *capsys.readouterr()


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(SOLVED, tmp_path / "run")


def test_a_page_is_written_beside_the_run_or_where_it_is_wanted(run, monkeypatch, capsys):
    code, out, _ = fwrl(monkeypatch, capsys, run, "--max-steps", 5)
    assert (code, out) == (0, f"{run / 'report.html'}\n")
    first = (run / "report.html").read_text()
    assert first.startswith("<!doctype html>")
    page = run.parent / "again.html"
    step = next((run / "checkpoints").iterdir()).name
    words = ("--out", page, "--checkpoint", step, "--max-steps", 5)
    assert fwrl(monkeypatch, capsys, run, *words)[:2] == (0, f"{page}\n")
    assert page.read_text() == first, "the same seed gives the same page"
    assert fwrl(monkeypatch, capsys, run, *words, "--seed", 1)[0] == 0
    assert page.read_text() != first


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: no such run directory"),
        (["RUN", "--checkpoint", "5"], "no checkpoint '5'"),
        (["RUN", "--out", "missing/report.html"], "--out: missing/report.html cannot be written"),
        (["RUN", "--out", "RUN"], "run: cannot be written, it is a folder; it should be a file"),
        (["RUN", "--episodes", "0"], "'--episodes': Input should be greater than or equal to 1"),
        (["RUN", "--max-steps", "0"], "greater than or equal to 1"),
    ],
)
def test_mistakes_are_one_line(words, said, run, monkeypatch, capsys):
    monkeypatch.chdir(run.parent)
    words = [word.replace("RUN", "run") for word in words]
    code, out, err = fwrl(monkeypatch, capsys, *words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert said in err


def test_an_unknown_environment_is_a_mistake(run, monkeypatch, capsys):
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("RepeatPrevious", "RepeatPrevius"))
    code, _, err = fwrl(monkeypatch, capsys, run)
    assert code == 2
    assert "RepeatPrevious" in err
    assert err.count("\n") == 1
    assert not (run / "report.html").exists()
