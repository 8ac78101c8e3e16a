"""Puts links and pipes where files are to be written, and notices who waits at one."""

import os
import signal
from contextlib import contextmanager


@contextmanager
def patience(seconds=30):
    """Fail, rather than wait for ever at a pipe."""

    def give_up(*_):
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def files_in(folder):
    """The regular files below a folder, by their relative paths."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    )


def link_instead(path, victim):
    """A link in the place of a file, to a copy of it that must not change; returns the copy."""
    victim.write_bytes(path.read_bytes() if path.exists() else b"precious")
    path.unlink(missing_ok=True)
    path.symlink_to(victim)
    return victim.read_bytes()


def pipe_instead(path):
    """A pipe in the place of a file."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
