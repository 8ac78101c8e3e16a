"""One writer of files: it follows no link, waits at no pipe, and nothing is written beside it."""

import ast
import os
import socket
from pathlib import Path

import pytest
from special_targets import patience

from fwrl.files.plain_files import (
    FileError,
    append_plain,
    create_plain,
    make_folder,
    replace_plain,
    replacing_plain,
)
from fwrl.run.event_file import EventFile

ROOT = Path(__file__).parents[2]
SOURCES = [
    path for folder in ("fwrl", "agents", "envs") for path in sorted((ROOT / folder).rglob("*.py"))
] + [ROOT / "train.py"]
# Writes files whose names are not chosen by anybody: a library is built beside the program.
EXEMPT = {"fwrl/files/plain_files.py", "fwrl/kernels/native/c/build.py"}
# What is written there is in memory, or to a file that the guarded writer has opened.
HARMLESS = {
    ("fwrl/bench/plot.py", "drawn.savefig(content, format='png')"),
    ("fwrl/cli/inspect/page.py", "image.save(file, kind)"),
    ("fwrl/files/tensor_files.py", "save(copies, None if metadata is None else dict(metadata))"),
    ("fwrl/run/output.py", "os.open(os.devnull, os.O_RDWR)"),
    ("fwrl/run/output.py", "os.open(os.devnull, os.O_WRONLY)"),
    ("fwrl/run/video/video.py", "av.open(file, 'w', format='mp4')"),
    ("fwrl/run/video/video.py", "images[0].save(file, 'GIF', save_all=True, **options)"),
}
# Objects that save checkpoints.
SAVERS = {"learner", "self", "saver"}
WRITERS = {
    "write_text", "write_bytes", "savefig", "touch", "tofile", "to_csv", "savetxt", "savez",
    "imsave", "copyfile", "copytree", "mkstemp", "SummaryWriter", "NamedTemporaryFile",
}  # fmt: skip


def name_of(call):
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def writes(call):
    """Whether a call may write a file whose name it is given."""
    name = name_of(call)
    words = [*call.args, *(keyword.value for keyword in call.keywords)]
    texts = [w.value for w in words if isinstance(w, ast.Constant) and isinstance(w.value, str)]
    if name == "open":
        flags = any(isinstance(node, ast.Attribute) and node.attr.startswith(("O_W", "O_RDWR"))
                    for node in ast.walk(call))  # fmt: skip
        return flags or any(len(t) <= 3 and set(t) & set("wax+") for t in texts)
    if name == "truncate":
        # a file that is open belongs to whoever has opened it
        return ast.unparse(call.func) == "os.truncate"
    if name == "save":
        receiver = getattr(call.func, "value", None)
        return bool(call.args) and getattr(receiver, "id", "") not in SAVERS
    return name in WRITERS


def test_nothing_is_written_beside_the_one_writer():
    found = {
        (file, ast.unparse(node))
        for path in SOURCES
        if (file := path.relative_to(ROOT).as_posix()) not in EXEMPT
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and writes(node)
    }
    assert found == HARMLESS


def listening(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))


def write_whole(path):
    replace_plain(path, b"new")


def write_in_parts(path):
    with replacing_plain(path) as file:
        file.write(b"new")


def append(path):
    with append_plain(path) as file:
        file.write(b"new")


LINKS = {
    "link": lambda path, victim: path.symlink_to(victim),
    "link to nothing": lambda path, victim: path.symlink_to(victim.parent / "nothing"),
    "link to itself": lambda path, victim: path.symlink_to(path),
    "link to a device": lambda path, victim: path.symlink_to("/dev/null"),
    "link to a folder": lambda path, victim: path.symlink_to(victim.parent),
}
OTHERS = {
    "pipe": lambda path, _: os.mkfifo(path),
    "socket": lambda path, _: listening(path),
    "folder": lambda path, _: path.mkdir(),
}


@pytest.mark.parametrize("write", [write_whole, write_in_parts, append])
@pytest.mark.parametrize("kind", [*LINKS, *OTHERS, "file"])
def test_what_stands_in_the_way(write, kind, tmp_path, monkeypatch):
    victim, folder, link = tmp_path / "victim", tmp_path / "folder", tmp_path / "above"
    victim.write_text("precious")
    folder.mkdir()
    # folders above may be links
    link.symlink_to(folder)
    monkeypatch.chdir(folder)
    path = link / "output"
    if kind == "file":
        path.write_text("old ")
    else:
        (LINKS | OTHERS)[kind](path, victim)
    with patience():
        if kind in OTHERS:
            before = path.lstat().st_mode
            with pytest.raises(FileError, match="output: cannot be written, it is"):
                write(path)
            assert path.lstat().st_mode == before
        else:
            write(path)
            assert not path.is_symlink()
            start = "old " if (kind, write) == ("file", append) else ""
            assert path.read_text() == f"{start}new"
    assert victim.read_text() == "precious"
    assert sorted(p.name for p in folder.iterdir()) == ["output"]
    assert not (tmp_path / "nothing").exists()


def test_a_new_file_is_new(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(FileExistsError):
        create_plain(tmp_path / "link")
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file/sub: cannot be made a folder"):
        make_folder(tmp_path / "file/sub")
    with pytest.raises(FileError, match="cannot be written"):
        replace_plain(tmp_path / "nowhere/file", b"")


def test_nobody_can_wait_for_a_file_of_events(tmp_path, monkeypatch):
    victim, folder = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    folder.mkdir()
    monkeypatch.setattr("time.time", lambda: 1e9)
    first = EventFile(folder)
    first.close()
    (name,) = [path.name for path in folder.iterdir()]
    assert name.startswith("events.out.tfevents.1000000000.")
    # the name of another file of the same second and process differs
    (folder / name).unlink()
    (folder / name).symlink_to(victim)
    EventFile(folder).close()
    assert victim.read_text() == "precious"
    assert len(list(folder.iterdir())) == 2
