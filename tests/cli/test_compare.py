"""``fwrl compare`` as a user types it: what is trained, kept, refused, and stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from command_line import run_command

from fwrl.bench.results import read_rows
from fwrl.run.jobs import OUTPUT, Children, Ended, failure

ROOT = Path(__file__).parents[2]
TINY = """
tasks:
  easy:
    config:
      env: {id: fwrl/RepeatPrevious-v0, num_envs: 4}
      stack: {width: 16}
      ppo: {num_steps: 16, minibatches: 2}
      evaluation: {every_steps: 128, episodes: 4, num_envs: 2}
columns:
  none: [core.kind=none]
seeds: [0]
total_steps: 256
episodes: 5
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with the file and its comparison, of which nothing is missing."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run_command("compare", "tiny.yaml") == 0
    return folder


@pytest.fixture
def out(finished, monkeypatch):
    monkeypatch.chdir(finished)
    return Path("runs/compare__tiny")


def test_what_a_comparison_leaves(out):
    run = out / "runs/easy/none/0"
    found = [json.loads(path.read_text()) for path in (run / "evaluations").glob("*.json")]
    (final,) = [result for result in found if result["seed"] == 1_000_000]
    (row,) = read_rows(out / "results.csv")
    assert (final["episodes"], final["steps"]) == (5, 256)
    assert row["score"] == row["return_mean"] == final["return_mean"]
    assert (row["steps"], row["seed"], row["column"]) == (256, 0, "none")
    assert row["steps_per_second"] == pytest.approx(256 / row["seconds"], rel=0.1)
    assert row["parameters"] > 1000
    document = json.loads((out / "results.json").read_text())
    assert document["missing"] == []
    assert document["command"] == "fwrl compare tiny.yaml"
    assert document["settings"]["episodes"] == 5
    assert (out / "scores.png").stat().st_size > 5_000
    assert (out / "curves_easy.png").stat().st_size > 5_000
    # it is an ordinary run
    assert run_command("evaluate", run, "--episodes", 2) == 0


def test_another_environment_is_evaluated_where_that_is_missing(finished, monkeypatch, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    out = Path("runs/compare__tiny")
    run = out / "runs/easy/none/0"
    before = (run / "metrics.csv").read_bytes()
    far = "transfer={far: [env.options.num_decks=2]}"
    assert run_command("compare", "tiny.yaml", far, "--out", out) == 0
    assert (run / "metrics.csv").read_bytes() == before
    (row,) = read_rows(out / "transfer.csv")
    assert (row["transfer"], row["length"]) == ("far", 103)
    assert row["score"] != read_rows(out / "results.csv")[0]["score"]
    assert (out / "transfer_easy.png").is_file()
    files = list((run / "evaluations").iterdir())
    assert run_command("compare", "tiny.yaml", far, "--out", out) == 0
    assert list((run / "evaluations").iterdir()) == files


def test_what_is_there_stays_and_what_fails_takes_nothing_with_it(out, capsys):
    run, broken = out / "runs/easy/none/0", out / "runs/easy/broken/0"
    before = (run / "metrics.csv").stat().st_mtime_ns
    broken.mkdir(parents=True)
    (broken / "checkpoints").write_text("no folder")
    (broken / "config.yaml").write_text((run / "config.yaml").read_text())
    columns = "columns={none: [core.kind=none], broken: [core.kind=none]}"
    assert run_command("compare", "tiny.yaml", columns, "--out", out) == 1
    assert "2/2  task easy, column broken, seed 0: failed exit code" in capsys.readouterr().out
    assert (run / "metrics.csv").stat().st_mtime_ns == before
    assert len(read_rows(out / "results.csv")) == 1
    assert "1 run missing." in (out / "table.md").read_text()
    (missing,) = json.loads((out / "results.json").read_text())["missing"]
    assert missing["column"] == "broken"


def test_a_task_without_the_score_is_left_out_and_all_else_is_told(
    finished, monkeypatch, tmp_path, capsys
):
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    runs = Path("runs/compare__tiny/runs")
    shutil.copytree(runs / "easy", runs / "other")
    task = TINY.split("tasks:\n")[1].split("columns:", maxsplit=1)[0]
    Path("tiny.yaml").write_text(TINY.replace(task, task + task.replace("easy", "other")))
    for name, success in (("easy", 0.75), ("other", None)):
        for path in (runs / name / "none/0/evaluations").glob("*.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"success_rate": success}))
    # a disk that was full has lost every line but the last evaluation
    table = runs / "easy/none/0/metrics.csv"
    table.write_text(table.read_text().splitlines()[0] + "\n")
    words = ["compare", "tiny.yaml", "score=eval/success_rate", "--out", "runs/compare__tiny"]
    assert run_command(*words) == 1
    assert "left out: score is 'eval/success_rate', which other" in capsys.readouterr().out
    (row,) = read_rows(Path("runs/compare__tiny/results.csv"))
    assert (row["task"], row["score"]) == ("easy", 0.75)
    assert "steps_per_second" not in row
    assert json.loads(Path("runs/compare__tiny/results.json").read_text())["missing"] == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("columns.none=[core.kind=gru]", "core.kind ('none' there, 'gru' here)"),
        ("total_steps=128", "has made 256 steps, total_steps is 128"),
    ],
)
def test_other_runs_are_refused_in_a_directory(out, capsys, change, complaint):
    assert run_command("compare", "tiny.yaml", change, "--out", out) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["columns.none=[core.kind=nine]"], "easy, none: core.kind is 'nine'; did you mean 'none'"),
        (["columns.none=[core.heads=3]"], "does not divide into 3 heads"),
        (["tasks.easy.config=memory/nothing.yaml"], "no such file"),
        (["tasks.easy.config.env.id=fwrl/Nothing-v0"], "Nothing"),
        (
            ["transfer={far: [seed=2]}"],
            "transfer of easy: 'seed=2': an evaluation takes the policy",
        ),
        (
            ["transfer={far: [env.id=CartPole-v1]}"],
            "transfer of easy: env.id=CartPole-v1: has other obs",
        ),
    ],
)
def test_mistakes_are_found_before_anything_is_written(file, capsys, words, complaint):
    assert run_command("compare", file, *words) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
    assert not Path("runs").exists()


def test_a_process_runs_commands_up_to_the_first_that_fails(tmp_path):
    commands = [["list", "rules"], ["list", "nothing"], ["list", "features"]]
    with Children() as children:
        children.start("one", commands, tmp_path, 1)
        ended = []
        wait_until(lambda: ended.extend(children.ended()) or ended)
    assert ended == [Ended("one", 2)]
    assert not ended[0].was_stopped
    text = (tmp_path / OUTPUT).read_text()
    assert "gated_delta" in text
    assert "favor_hyperbolic" not in text
    assert failure(tmp_path, ended[0]).endswith("choose from " + text.split("choose from ")[1][:-1])


def test_leaving_stops_what_runs(tmp_path, file):
    # which would train for minutes
    words = ["train", str(file), "total_steps=100000000"]
    with Children() as children:
        children.start("one", [words], tmp_path, 1)
        process = children.running["one"]
    assert process.returncode is not None
    assert Ended("one", process.returncode).was_stopped


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_comparison_that_was_stopped_goes_on(number, file, tmp_path):
    words = ["compare", str(file), "columns={none: [core.kind=none], gru: [core.kind=gru]}"]
    long = [*words, "total_steps=20000", "--jobs", "2"]
    assert run_command(*long, "--out", "undisturbed") == 0
    surroundings = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "fwrl", *long, "--out", "here"], cwd=tmp_path, env=surroundings
    )
    tables = [tmp_path / f"here/runs/easy/{column}/0/metrics.csv" for column in ("none", "gru")]
    try:
        wait_until(lambda: all(t.exists() and t.stat().st_size > 1000 for t in tables))
        trained = children_of(process.pid)
        assert len(trained) == 2
        process.send_signal(number)
        assert process.wait(60) == (-9 if number == signal.SIGKILL else 75)
        wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in trained))
    finally:
        with suppress(ProcessLookupError):
            process.kill()
            process.wait()
    assert run_command(*long, "--out", "here") == 0
    found, expected = (read_rows(Path(out) / "results.csv") for out in ("here", "undisturbed"))
    names = ("task", "column", "seed", "score", "mmer", "steps")
    assert [[row[n] for n in names] for row in found] == [
        [row[n] for n in names] for row in expected
    ]


def children_of(process):
    words = ["pgrep", "-P", str(process)]
    found = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    return [int(word) for word in found.split()]
