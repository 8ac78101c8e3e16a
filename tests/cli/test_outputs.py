"""A link and a pipe at every output of every command: none is written through, nobody waits."""

import shutil
import stat
from pathlib import Path

import pytest
from command_line import run_command
from small_commands import BENCH, COMPARE, TRAIN, TUNE, write_files
from special_targets import files_in, link_instead, patience, pipe_instead

from fwrl.files.plain_files import FileError
from fwrl.run.jobs import OUTPUT, Children

# other tests check the shapes of all that is computed here
pytestmark = pytest.mark.unchecked

SOLVED = Path(__file__).parents[1] / "golden/solved_repeat_previous"
# Command -> its words. Each is run twice, the second time with something else at an output.
COMMANDS = {
    "train": TRAIN,
    "evaluate": ["evaluate", "solved", "--episodes", 1, "--video", "solved/film"],
    "inspect": ["inspect", "solved", "--max-steps", 3, "--out", "out/page.html"],
    "inspect inside": ["inspect", "solved", "--max-steps", 3],
    "safetensors": ["export", "solved", "out/policy.safetensors", "--force"],
    "onnx": ["export", "solved", "out/policy.onnx", "--force"],
    "bench": BENCH,
    "compare": COMPARE,
    "tune": TUNE,
}
# Commands that take seconds each time.
LONG = ("bench", "compare", "tune")
# What is read before it is written, or is part of something whole, and is refused as a link too.
READ = ("config.yaml", "checkpoints/", "checkpoint/", "study.journal")


def again(name):
    """The words of the second time: training has something left to write."""
    return [*COMMANDS[name], "total_steps=64"] if name == "train" else COMMANDS[name]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """For each command a folder in which it was run once, and the files that it has written.

    With each file stands whether the same command writes it anew when it comes again.
    """
    found = {}

    def place(name):
        if name not in found:
            folder = tmp_path_factory.mktemp("place")
            write_files(folder)
            (folder / "out").mkdir()
            shutil.copytree(SOLVED, folder / "solved")
            before = files_in(folder)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                assert run_command(*COMMANDS[name]) == 0
            # outputs of a run inside a comparison or a search are those of train
            written = set(files_in(folder)) - set(before)
            runs = ("out/runs/", "out/trials/")
            outputs = sorted(w for w in written if not w.startswith(runs))
            twin = shutil.copytree(folder, tmp_path_factory.mktemp("twin") / "again")
            inodes = {output: (twin / output).stat().st_ino for output in outputs}
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(twin)
                assert run_command(*again(name)) == 0
            found[name] = (
                folder,
                [
                    # those of checkpoints change only if they are deleted
                    (o, not (twin / o).exists() or (twin / o).stat().st_ino != inodes[o])
                    for o in outputs
                ],
            )
        return found[name]

    return place


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in COMMANDS],
)
def test_no_output_is_written_through(name, places, tmp_path, monkeypatch, capsys):
    folder, outputs = places(name)
    assert outputs
    for number, (output, is_rewritten) in enumerate(outputs):
        for kind in ("link", "pipe"):
            place = tmp_path / f"{number}{kind}"
            shutil.copytree(folder, place)
            monkeypatch.chdir(place)
            path, victim = Path(output), tmp_path / f"{number}{kind}.victim"
            before = link_instead(path, victim) if kind == "link" else pipe_instead(path)
            with patience():
                code = run_command(*again(name))
            told = capsys.readouterr()
            case = (output, kind, code, told)
            is_read = any(part in output for part in READ)
            if kind == "link":
                assert victim.read_bytes() == before, case
                assert code == 0 or is_read, case
                assert code or not (is_rewritten and path.is_symlink()), case
                victim.unlink()
            elif is_rewritten and not is_read:
                assert (code, stat.S_ISFIFO(path.lstat().st_mode)) == (2, True), case
            assert code in (0, 2), case
            assert told.err.count("\n") == (1 if code else 0), case
            assert not list(tmp_path.glob("*.victim*")), case
            shutil.rmtree(place)


def test_an_output_log_of_a_run_in_a_process_of_its_own(tmp_path):
    victim = tmp_path / "victim"
    link_instead(tmp_path / OUTPUT, victim)
    with Children() as children:
        children.start("a", [["list", "rules"]], tmp_path, 1)
        children.running["a"].wait(60)
    assert "gated_delta" in (tmp_path / OUTPUT).read_text()
    assert victim.read_text() == "precious"
    pipe_instead(tmp_path / OUTPUT)
    with Children() as children, patience(), pytest.raises(FileError, match="no regular file"):
        children.start("a", [["list", "rules"]], tmp_path, 1)
