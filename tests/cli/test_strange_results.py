"""Results of strangers, or damaged ones of ours: each command says one line, or begins anew."""

import errno
import json
import os
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from command_line import run_command
from small_commands import BENCH, COMPARE, TRAIN, TUNE, write_files
from special_targets import patience

from fwrl.bench import BENCHMARKS, find_benchmark, plot, supervised
from fwrl.bench.supervised import CHECKPOINT, Learner, TrainingConfig
from fwrl.cli import bench
from fwrl.cli.compare import command as comparing
from fwrl.cli.tune import command as tuning
from fwrl.config import ConfigError
from fwrl.files.checkpoint import CheckpointError
from fwrl.run.directory import staying
from fwrl.run.jobs import OUTPUT, Children, Ended, failure

# other tests check the shapes of all that is computed here
pytestmark = pytest.mark.unchecked


def other_types(value):
    """A JSON value with texts for numbers, lists for texts, and so on."""
    match value:
        case dict():
            return {key: other_types(part) for key, part in value.items()}
        case list():
            return {str(i): other_types(part) for i, part in enumerate(value)}
        case str():
            return [value]
        case bool() | None:
            return 1e300
        case _:
            return f"{value} or so"


def of_other_types(data):
    try:
        return json.dumps(other_types(json.loads(data))).encode()
    except ValueError:
        return re.sub(rb"\d+", b"many", data)


CONTENTS = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "short rows": lambda data: b"\n".join(row[: row.find(b",") + 3] for row in data.split(b"\n")),
    "long rows": lambda data: data.replace(b"\n", b",1,2,3\n"),
    "other types": of_other_types,
    "huge numbers": lambda data: re.sub(rb"\d+\.\d+", b"1e308", data),
    "other names": lambda data: re.sub(rb"[a-z]{4,}", b"word", data),
    "a list": lambda data: b"[1, 2]\n",
    "words": lambda data: b"step, but no numbers\n\n:x\n" * 3,
    "not UTF-8": lambda data: b"\xff\xfe" + data,
    "zeros": lambda data: data[:40] + bytes(50) + data[40:],
}
OTHERS = {
    "huge": lambda path: (path.touch(), os.truncate(path, 2**40)),
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "link to itself": lambda path: path.symlink_to(path),
}


def damage(path, kind):
    data = path.read_bytes() if path.exists() else b""
    path.unlink(missing_ok=True)
    if kind in CONTENTS:
        path.write_bytes(CONTENTS[kind](data))
    else:
        OTHERS[kind](path)


class NoChildren(Children):
    """Stands for processes that fail at once."""

    def start(self, name, commands, directory, num_threads):
        self.running[name] = None

    def ended(self):
        names, self.running = list(self.running), {}
        return [Ended(name, 1) for name in names]

    def stop(self, names):
        pass


COMMANDS = {
    "train": [*TRAIN, "total_steps=64"],
    "evaluate": ["evaluate", "out", "--episodes", 1],
    "inspect": ["inspect", "out", "--max-steps", 3],
    "export": ["export", "out", "policy.safetensors"],
    "bench": BENCH,
    "compare": COMPARE,
    "tune": TUNE,
}
FIRST = {"bench": BENCH, "compare": COMPARE, "tune": TUNE}
# Command -> patterns of the files that it reads, or that lie beside them.
READ = {
    "train": ["config.yaml", "metrics.csv", "checkpoints/32/manifest.json", ".owner"],
    "evaluate": ["config.yaml", "checkpoints/32/manifest.json", "metrics.csv"],
    "inspect": ["config.yaml", "checkpoints/32/manifest.json"],
    "export": ["config.yaml", "checkpoints/32/manifest.json"],
    "bench": ["config.yaml", "results.csv", "results.json"],
    "compare": [
        "config.yaml", "results.csv", "results.json", "transfer.csv", "runs/*/*/0/metrics.csv",
        "runs/*/*/0/evaluations/*.json", "runs/*/*/0/checkpoints/32/manifest.json",
        "runs/*/*/0/output.txt", "runs/*/*/0/config.yaml",
    ],
    "tune": [
        "config.yaml", "study.journal", "trials.csv", "best.yaml", "trials/0000/0/metrics.csv",
        "trials/0000/output.txt",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    found = {}

    def place(name):
        first = FIRST.get(name, TRAIN)
        if first[0] not in found:
            folder = tmp_path_factory.mktemp("place")
            write_files(folder)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                assert run_command(*first) == 0
            found[first[0]] = folder
        return found[first[0]]

    return place


@pytest.mark.parametrize(
    ("command", "file"),
    [
        pytest.param(name, file, marks=pytest.mark.slow if name in ("compare", "tune") else ())
        for name, files in READ.items()
        for file in files
    ],
)
def test_every_command_says_a_line_or_goes_on(command, file, places, tmp_path, monkeypatch, capsys):
    origin = places(command)
    monkeypatch.setattr(comparing, "Children", NoChildren)
    monkeypatch.setattr(tuning, "Children", NoChildren)
    for kind in (*CONTENTS, *OTHERS):
        place = tmp_path / "place"
        shutil.copytree(origin, place)
        monkeypatch.chdir(place)
        paths = list(Path("out").glob(file)) or [Path("out", file)]
        for path in paths:
            damage(path, kind)
        capsys.readouterr()
        with patience(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = run_command(*COMMANDS[command])
        told = capsys.readouterr()
        case = (file, kind, code, told)
        assert code in (0, 1, 2), case
        assert told.err.count("\n") == (1 if code == 2 else 0), case
        assert told.out.count("Traceback") == 0, case
        # ours and damaged: kept under another name, and told
        if (
            command == "train"
            and file == "metrics.csv"
            and kind in ("not UTF-8", "words", "a list")
        ):
            assert Path("out/metrics.csv.1").exists(), case
            assert "it is now metrics.csv.1" in told.out, case
        shutil.rmtree(place)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_any_rows_are_drawn_or_refused(name, tmp_path):
    benchmark = find_benchmark(name)
    settings = bench.settings_of(benchmark, "smoke", [])
    points, published = benchmark.points(settings), list(benchmark.published)
    numbers = {"accuracy": 0.5, "loss": 1e308, "step": -1, "seconds": float("inf")}
    for rows in (
        points,
        [{}],
        [{"a": 1}],
        [point | {"seed": "x"} for point in points],
        [point | numbers for point in points],
        [point | dict.fromkeys(numbers, "many") for point in points],
        published[:3],
        [dict.fromkeys(row, "text") for row in published[:3]],
        [dict.fromkeys(row, float("nan")) for row in published[:3]],
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with plot.rows_of(tmp_path / "results.csv"):
                    benchmark.draw(settings, rows, tmp_path / f"{name}.png")
            except ConfigError as error:
                assert "cannot be drawn, one of its rows is not of these results" in str(error)  # noqa: PT017


def learner():
    torch.manual_seed(0)
    return Learner(torch.nn.Linear(2, 2), TrainingConfig())


@pytest.mark.parametrize(
    "kind", ["empty", "half", "zeros", "a list", "not UTF-8", "folder", "pipe"]
)
@pytest.mark.parametrize("file", ["manifest.json", "model.safetensors", "generators.safetensors"])
def test_a_damaged_training_of_a_benchmark_is_kept_and_begun_anew(kind, file, tmp_path, capsys):
    generator = torch.Generator().manual_seed(1)
    learner().save(tmp_path, generator, rows=[{"loss": 1.0}])
    damage(tmp_path / CHECKPOINT / file, kind)
    fresh = learner()
    with patience():
        assert fresh.restore(tmp_path, generator) == ((), [])
    error = capsys.readouterr().err
    assert "it is now checkpoint.1, and training begins anew" in " ".join(error.split())
    assert (tmp_path / "checkpoint.1").is_dir()
    fresh.save(tmp_path, generator)
    assert learner().restore(tmp_path, generator) == ((), [])
    assert not capsys.readouterr().err


def test_a_full_disk_costs_a_benchmark_no_training(tmp_path, monkeypatch, capsys):
    generator = torch.Generator()
    learner().save(tmp_path, generator, rows=[{"loss": 1.0}])

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(supervised, "save_checkpoint", fail)
        learner().save(tmp_path, generator, rows=[])
    assert "not saved (No space left on device)" in " ".join(capsys.readouterr().err.split())
    assert learner().restore(tmp_path, generator) == ((), [{"loss": 1.0}])
    for number, kind in ((errno.ENOSPC, ConfigError), (errno.EDQUOT, ConfigError), (5, OSError)):
        with pytest.raises(kind), staying(tmp_path):
            raise OSError(number, "full")


@pytest.mark.parametrize("what", ["file", "link", "pipe"])
def test_what_has_the_name_of_a_training(what, tmp_path, capsys):
    path = tmp_path / CHECKPOINT
    {
        "file": path.touch,
        "link": lambda: path.symlink_to("nowhere"),
        "pipe": lambda: os.mkfifo(path),
    }[what]()
    generator = torch.Generator()
    with patience():
        assert learner().restore(tmp_path, generator) == ((), [])
    assert "it is now checkpoint.1" in " ".join(capsys.readouterr().err.split())
    learner().save(tmp_path, generator)
    assert os.path.lexists(tmp_path / "checkpoint.1")


def test_another_training_is_refused(tmp_path):
    generator = torch.Generator()
    for rows in (["ab"], [1], "rows"):
        learner().save(tmp_path, generator, rows=rows)
        with pytest.raises(CheckpointError, match="holds another training"):
            learner().restore(tmp_path, generator)


@pytest.mark.parametrize("kind", [*CONTENTS, *OTHERS])
def test_the_end_of_an_output_log(kind, tmp_path):
    (tmp_path / OUTPUT).write_text("it begins\nand breaks")
    damage(tmp_path / OUTPUT, kind)
    with patience():
        said = failure(tmp_path, Ended("a", 1))
    assert said.startswith("exit code 1, ")
    assert "\n" not in said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["return_mean", "return_iqm", "success_rate", "length_mean"])
def test_an_evaluation_without_numbers_is_made_again(name, places, tmp_path, monkeypatch, capsys):
    origin = places("compare")
    monkeypatch.setattr(comparing, "Children", NoChildren)
    for wrong in ("many", [1], True, {}, None):
        place = tmp_path / "place"
        shutil.copytree(origin, place)
        monkeypatch.chdir(place)
        for path in Path("out").glob("runs/*/*/0/evaluations/*.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {name: wrong}))
        code = run_command(*COMPARE)
        told = capsys.readouterr()
        # null is a number that is not finite, and no other evaluation would be better
        again = wrong is not None
        assert code == (1 if again or name == "return_mean" else 0), (wrong, told)
        assert ("task easy, column none, seed 0: failed" in told.out) == again
        shutil.rmtree(place)
