"""``fwrl bench``: what is measured, kept, resumed, refused and drawn, whatever the benchmark."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from matplotlib.image import imread, imsave

from fwrl import bench
from fwrl.bench import BENCHMARKS, Listed, find_benchmark
from fwrl.bench.benchmark import Benchmark, Progress, Settings
from fwrl.bench.engine import folder_of, holds
from fwrl.bench.results import number_or_text, read_rows, write_rows
from fwrl.cli import main
from fwrl.cli.bench import settings_of
from fwrl.config import Config, ConfigError

ROOT = Path(__file__).parents[2]


class SquaresSettings(Settings):
    axes: ClassVar[tuple[str, ...]] = ("numbers", "seeds")

    numbers: tuple[int, ...] = (1, 2, 3)
    offset: int = 0


PICTURE = np.ones((40, 400, 4))


@pytest.fixture
def squares(monkeypatch):
    """A benchmark of no work that says what it measured; ``fail`` and ``interrupt`` name points."""
    said = SimpleNamespace(measured=[], drawn=[], fail=None, interrupt=None)

    def measure(settings, point, folder):
        assert folder.is_dir()
        yield Progress(0, 1, "begins")
        if point["number"] == said.fail:
            raise RuntimeError("broken")
        if point["number"] == said.interrupt:
            os.kill(os.getpid(), signal.SIGTERM)
        said.measured.append((point["number"], point["seed"]))
        return [
            {"time": t, "square": point["number"] ** 2 + settings.offset + t / 2} for t in (0, 1)
        ]

    def draw(settings, rows, path):
        said.drawn.append(len(rows))
        imsave(path, PICTURE)

    fake = Benchmark(
        settings=SquaresSettings,
        presets={"smoke": {"numbers": (1,)}, "cpu": {}, "paper": {"numbers": tuple(range(9))}},
        points=lambda settings: [
            {"number": n, "seed": s} for s in settings.seeds for n in settings.numbers
        ],
        measure=measure,
        draw=draw,
        published=[{"number": 2, "square": 4}],
    )
    monkeypatch.setitem(BENCHMARKS, "squares", Listed("squares", "of numbers"))
    monkeypatch.setitem(sys.modules, "fwrl.bench.squares", SimpleNamespace(BENCHMARK=fake))
    return said


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """``fwrl bench``: exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["fwrl", "bench", *map(str, words)])
        with pytest.raises(SystemExit) as leave:
            main()
        captured = capsys.readouterr()
        return leave.value.code, captured.out, captured.err

    return run


def test_what_a_folder_receives(squares, command):
    code, out, _ = command("squares", "--out", "here", "--jobs", 1)
    assert code == 0
    assert "3/3  number 3, seed 0: time 1, square 9.5" in out
    rows = read_rows(Path("here/results.csv"))
    assert [row["square"] for row in rows] == [1, 1.5, 4, 4.5, 9, 9.5]
    assert all(row["seconds"] >= 0 for row in rows)
    document = json.loads(Path("here/results.json").read_text())
    assert document["rows"] == rows
    assert document["missing"] == []
    assert document["published"] == [{"number": 2, "square": 4}]
    assert document["command"] == "fwrl bench squares --out here --jobs 1"
    assert document["settings"]["numbers"] == [1, 2, 3]
    assert document["machine"]["processors"] >= 1
    assert "torch" in document["versions"]
    # the system, but not the build of its kernel
    for told in (document["versions"], document["machine"]):
        assert told["platform"].startswith(f"{platform.system()} {platform.machine()}")
        assert platform.release() not in told["platform"]
    assert imread("here/squares.png").shape == PICTURE.shape
    assert "offset: 0" in Path("here/config.yaml").read_text()


def test_what_is_there_is_not_measured_again(squares, command):
    command("squares", "--out", "here", "--jobs", 1, "numbers=[2]")
    command("squares", "--out", "here", "--jobs", 1, "numbers=[1, 2]", "seeds=[0, 1]")
    assert squares.measured == [(2, 0), (1, 0), (1, 1), (2, 1)]
    rows = read_rows(Path("here/results.csv"))
    # in the order of the points, not in that of their measurement
    assert [(row["number"], row["seed"]) for row in rows[::2]] == [(1, 0), (2, 0), (1, 1), (2, 1)]
    command("squares", "--out", "here", "--jobs", 1, "numbers=[3]")
    assert [row["number"] for row in read_rows(Path("here/results.csv"))[::2]] == [3, 1, 2, 1, 2]
    assert squares.drawn == [2, 8, 10]


def test_drawing_again_does_not_claim_to_have_measured(squares, command):
    command("squares", "--out", "here", "--jobs", 1, "numbers=[2, 3]")
    first = json.loads(Path("here/results.json").read_text())
    Path("here/squares.png").unlink()
    Path("here/results.json").write_text(json.dumps(first | {"machine": {"processor": "other"}}))
    command("squares", "--out", "here", "numbers=[3]")
    again = json.loads(Path("here/results.json").read_text())
    assert Path("here/squares.png").exists()
    assert again["command"] == first["command"]
    assert again["machine"] == {"processor": "other"}
    assert again["rows"][0] == first["rows"][2]
    command("squares", "--out", "here", "--jobs", 1, "numbers=[4]")
    assert json.loads(Path("here/results.json").read_text())["machine"] == first["machine"]


def test_other_settings_are_refused_in_a_folder(squares, command):
    command("squares", "--out", "here", "--jobs", 1, "numbers=[2]")
    code, _, err = command("squares", "--out", "here", "offset=5")
    assert code == 2
    assert err.count("\n") == 1
    assert "offset (0 there, 5 here)" in err
    assert "another --out" in err
    assert len(read_rows(Path("here/results.csv"))) == 2
    code, _, _ = command("squares", "--out", "here", "offset=5", "numbers=[2]", "--fresh")
    assert code == 0
    assert [row["square"] for row in read_rows(Path("here/results.csv"))] == [9, 9.5]
    assert [row["square"] for row in read_rows(Path("here.1/results.csv"))] == [4, 4.5]


def test_a_point_that_fails_takes_nothing_with_it(squares, command, monkeypatch, tmp_path):
    squares.fail = 3
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fwrl", "bench", "squares", "--out", "here", "--jobs", "1"])
    with pytest.raises(RuntimeError, match="broken"):
        main()
    assert [row["number"] for row in read_rows(Path("here/results.csv"))[::2]] == [1, 2]
    squares.fail = None
    assert command("squares", "--out", "here", "--jobs", 1)[0] == 0
    assert [number for number, _ in squares.measured] == [1, 2, 3]


def test_a_signal_keeps_what_was_measured(squares, command):
    squares.interrupt = 2
    before = signal.getsignal(signal.SIGTERM)
    code, out, _ = command("squares", "--out", "here", "--jobs", 1)
    assert code == 75
    assert "2 points missing" in out
    assert signal.getsignal(signal.SIGTERM) is before
    document = json.loads(Path("here/results.json").read_text())
    assert document["missing"] == [{"number": 2, "seed": 0}, {"number": 3, "seed": 0}]
    squares.interrupt = None
    assert command("squares", "--out", "here", "--jobs", 1)[0] == 0
    assert [number for number, _ in squares.measured] == [1, 2, 3]


def test_where_results_go_when_nobody_says(squares, command):
    command("squares", "--preset", "smoke", "--jobs", 1, "offset=2", "seeds=[4]")
    (folder,) = Path("runs").iterdir()
    assert folder.name == "squares__smoke__offset=2"
    # a mere check says so below
    assert imread(folder / "squares.png").shape[0] > PICTURE.shape[0]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["squaers"], "fwrl: benchmark is 'squaers'; did you mean 'squares'?"),
        (["squares", "--preset", "ppaer"], "fwrl: --preset is 'ppaer'; did you mean 'paper'?"),
        (["squares", "number=[1]"], "fwrl: number: no such key; did you mean 'numbers'?"),
        (["squares", "numbers=[1.5]"], "fwrl: numbers.0 is 1.5; it should be"),
    ],
)
def test_mistakes_are_one_line(squares, command, words, complaint):
    code, out, err = command(*words)
    assert code == 2
    assert err.startswith(complaint)
    assert err.count("\n") == 1
    assert not out
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_every_entry_is_a_benchmark(name):
    benchmark = find_benchmark(name)
    assert {"smoke", "cpu", "paper"} <= set(benchmark.presets)
    for preset in benchmark.presets:
        settings = settings_of(benchmark, preset, [])
        points = benchmark.points(settings)
        assert points
        assert len({folder_of(Path(), point) for point in points}) == len(points)
        assert all("seed" in point for point in points)
        assert set(settings.axes) <= set(type(settings).model_fields)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_number_of_a_part_can_be_said_alone(name):
    # to say what is so already changes nothing, not even what stands beside it
    benchmark = find_benchmark(name)
    for preset in benchmark.presets:
        settings = settings_of(benchmark, preset, [])
        parts = {key: part for key, part in settings if isinstance(part, Config)}
        for key, part in parts.items():
            for number, value in part:
                if isinstance(value, int | float | str):
                    said = settings_of(benchmark, preset, [f"{key}.{number}={json.dumps(value)}"])
                    assert said == settings, (preset, key, number)


def test_an_unknown_benchmark_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'retrieval'"):
        find_benchmark("retreival")
    assert bench.__doc__


@pytest.mark.parametrize("value", ["delta, dpfp 1", 3, 0.25, -1, 1e-7])
def test_a_cell_is_read_as_it_was_written(value, tmp_path):
    write_rows(tmp_path / "rows.csv", [{"a": value}, {"b": 2}])
    assert read_rows(tmp_path / "rows.csv") == [{"a": value}, {"b": 2}]
    assert number_or_text(str(value)) == value


def test_a_point_is_held_by_all_its_columns():
    rows = [{"method": "delta", "keys": 20, "loss": 0.1}]
    assert holds(rows, {"method": "delta", "keys": 20})
    assert not holds(rows, {"method": "delta", "keys": 40})
    assert not holds(rows, {"method": "delta", "seed": 0})


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, signal.SIGKILL, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)],
)
def test_no_process_outlives_a_benchmark_that_was_stopped(number, tmp_path):
    words = ["bench", "sorting", "--preset", "cpu", "--jobs", "2", "--out", "here"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "fwrl", *words],
        cwd=tmp_path,
        env=environment,
        start_new_session=True,
    )
    try:
        wait_until(lambda: len(processes_of(process.pid)) >= 4)
        time.sleep(2)
        process.send_signal(number)
        assert process.wait(20) == (-number if number == signal.SIGKILL else 75)
        wait_until(lambda: not processes_of(process.pid))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("victim", ["the queue", "a worker"])
def test_a_process_that_measures_is_killed(victim, tmp_path):
    words = ["bench", "sorting", "--preset", "cpu", "--jobs", "2", "--out", "here"]
    with subprocess.Popen(
        [sys.executable, "-m", "fwrl", *words],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            wait_until(lambda: len(spawned_in(process.pid)) >= 3)
            time.sleep(2)
            os.kill(spawned_in(process.pid)[0 if victim == "the queue" else -1], signal.SIGKILL)
            out, _ = process.communicate(timeout=40)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 1
    # a worker that has just been started may complain that its queue is gone
    assert victim == "the queue" or "Traceback" not in out
    assert "fwrl: a process that measured was killed" in out.splitlines()[-1]


def spawned_in(session):
    """The processes that a command of Python spawned, in the order of their start."""
    lines = {int(pid): Path(f"/proc/{pid}/cmdline") for pid in processes_of(session)}
    return sorted(pid for pid, line in lines.items() if "spawn_main" in line.read_text())


def processes_of(session):
    words = ["pgrep", "-s", str(session)]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()


def wait_until(condition, seconds=40):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_several_processes_find_what_one_finds(command):
    sizes, cheap = "sizes=[4, 5]", ["key_size=8", "max_steps=100", "methods=['delta, dpfp 1']"]
    for name, jobs in (("one", 1), ("two", 2)):
        words = ("retrieval", "--out", name, "--jobs", jobs, sizes, *cheap)
        assert command(*words)[0] == 0
    one, two = (read_rows(Path(name) / "results.csv") for name in ("one", "two"))
    assert [{**row, "seconds": 0} for row in one] == [{**row, "seconds": 0} for row in two]
    assert Path("two/retrieval.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["retrieval", "update"])
def test_smoke(name, command):
    code, out, _ = command(name, "--preset", "smoke", "--jobs", 1)
    assert code == 0
    document = json.loads(Path(f"runs/{name}__smoke/results.json").read_text())
    assert len(document["rows"]) == 6
    assert document["missing"] == []
    assert len(document["published"]) > 70
    # reads of the clipped rule are layer-normed: they can be worse than none
    assert all(0 < row["loss"] < 20 for row in document["rows"])
    assert "6/6" in out
