"""Read files of strangers within limits, and write files: the only place where any is written.

Only regular files are opened: opening a pipe can wait for ever, and opening a device can have
effects. No link is followed to what is written.
"""

import errno
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from io import BufferedReader, BufferedWriter, FileIO
from pathlib import Path

from fwrl.config import OneLineError

MEBIBYTE = 2**20


class FileError(OneLineError):
    """A file that cannot be read as what it should be, or not written. The message is one line."""


@contextmanager
def open_plain(path: Path, links: bool = False) -> Generator[tuple[BufferedReader, int]]:
    """A regular file (or, if ``links``, a link to one), open for reading, and its size in bytes.

    Raises:
        FileNotFoundError: If the file does not exist.
        FileError: If it is not a regular file, or cannot be opened.
    """
    # without waiting, in case it became a pipe after the check
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    flags |= getattr(os, "O_CLOEXEC", 0) | (0 if links else getattr(os, "O_NOFOLLOW", 0))
    try:
        _regular(path, path.stat() if links else path.lstat())
        descriptor = os.open(path, flags)
    except (FileNotFoundError, FileError):
        raise
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    # a name with a zero inside, or half of a surrogate pair
    except ValueError as error:
        raise FileError(f"{path}: cannot be read ({error})") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _regular(path, status)
        yield file, status.st_size


def read_plain(path: Path, limit: int, links: bool = False) -> bytes:
    """The content of a regular file of at most ``limit`` bytes.

    Raises:
        FileNotFoundError: If the file does not exist.
        FileError: If it is not a regular file, larger, or cannot be read.
    """
    with open_plain(path, links) as (file, size):
        if size > limit:
            raise FileError(f"{path}: has {size:,} bytes; it should have at most {limit:,}")
        # the size is read once: the file may grow meanwhile
        return read_exactly(file, path, size)


def read_exactly(file: BufferedReader, path: Path, size: int) -> bytes:
    """The next ``size`` bytes of an open file.

    Raises:
        FileError: If the file has fewer, or they do not fit into memory.
    """
    try:
        data = file.read(size)
    except MemoryError:
        raise FileError(f"{path}: its {size:,} bytes do not fit into memory") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) != size:
        raise FileError(f"{path}: ends after {len(data):,} of {size:,} bytes")
    return data


def write_plain(path: Path, data: bytes) -> None:
    """Write a new file and flush it to the disk; its mode follows the umask."""
    with create_plain(path) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_plain(path: Path, data: bytes) -> None:
    """Write a file whole, or leave the old one; a link is replaced, not followed.

    Raises:
        FileError: If it cannot be written, or stands in the place of a pipe, a device or a folder.
    """
    try:
        with replacing_plain(path) as file:
            file.write(data)
    except OSError as error:
        raise FileError(f"{path}: cannot be written ({error.strerror})") from None


@contextmanager
def replacing_plain(path: Path) -> Generator[BufferedWriter]:
    """A file to write, which replaces ``path`` when the block ends without an exception.

    A link is replaced, not followed. Folders above may be links.

    Raises:
        FileError: If a pipe, a device or a folder stands there.
    """
    check_target(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with create_plain(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def create_plain(path: Path) -> BufferedWriter:
    """A new file to write.

    Raises:
        FileExistsError: If anything has that name, were it a link to nothing.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o666), "wb")


def append_plain(path: Path) -> FileIO:
    """A file to read and to append to, without a buffer; made anew in the place of a link.

    Raises:
        FileError: If it is not a regular file, or cannot be opened.
    """
    check_target(path)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
    flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        if path.is_symlink():
            path.unlink()
        file = FileIO(os.open(path, flags, 0o666), "a+")
    except OSError as error:
        raise FileError(f"{path}: cannot be written ({error.strerror})") from None
    return file


def check_target(path: Path) -> None:
    """Check that a file can be written here: nothing is there, or a file, or a link to replace.

    Raises:
        FileError: If a pipe, a device or a folder stands there.
    """
    try:
        mode = path.lstat().st_mode
    # nothing is there; what else may be wrong, writing says
    except (OSError, ValueError):
        return
    if stat.S_ISDIR(mode):
        raise FileError(f"{path}: cannot be written, it is a folder; it should be a file")
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise FileError(f"{path}: cannot be written, it is no regular file; remove it")


def identity(folder: Path) -> tuple[int, int] | None:
    """A folder's device and inode, which it keeps when it is renamed; None if nothing is there."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def make_folder(path: Path) -> Path:
    """Make a folder, and those above it, unless it is there; returns it.

    Raises:
        FileError: If it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{path}: cannot be made a folder ({error.strerror})") from None
    return path


def set_aside(path: Path) -> Path:
    """Rename a file, a folder or a link to the first free ``<name>.<number>``; returns that."""
    return path.rename(free_name(path))


def free_name(path: Path) -> Path:
    """The first ``<name>.<number>`` beside a path that nothing has."""
    number = 1
    while os.path.lexists(free := path.with_name(f"{path.name}.{number}")):
        number += 1
    return free


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    _sync(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _regular(path: Path, status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    if stat.S_ISLNK(status.st_mode):
        raise FileError(f"{path}: is a symbolic link; it should be a file")
    if stat.S_ISDIR(status.st_mode):
        raise FileError(f"{path}: cannot be read ({os.strerror(errno.EISDIR)})")
    raise FileError(f"{path}: is no regular file")
