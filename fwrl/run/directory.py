"""The run directory: everything about a run, in one place that explains itself."""

import errno
import hashlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from agents.saving import list_checkpoints
from fwrl.config import (
    Config,
    ConfigError,
    ConfigType,
    OneLineError,
    as_stored,
    validate_stored,
    without_passwords,
)
from fwrl.files.names import no_run
from fwrl.files.plain_files import (
    FileError,
    append_plain,
    identity,
    read_plain,
    replace_plain,
    set_aside,
)
from fwrl.run.config import MAY_CHANGE, RunConfig
from fwrl.run.table import TABLE, has_rows
from fwrl.run.yaml_files import differences, read_yaml

CONFIG, LOCK, OWNER = "config.yaml", ".lock", ".owner"
# The files that are written before the configuration.
FIRST = {"versions.json", "command.txt"}
LARGEST_OWNER = 4096
# Errors of a disk, a quota or a process that may write no more.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Differences between two configurations that one message lists.
MOST_DIFFERENCES = 5
# Bytes of a name: with prefixes and endings it must fit into the 255 of a file system.
LONGEST_NAME = 200
PACKAGES = ("torch", "numpy", "gymnasium", "ale-py", "stable-baselines3", "safetensors", "fwrl")


def command_typed(leave_out: Sequence[str] = ()) -> str:
    """The command that the user typed, without ``leave_out`` and without passwords in addresses."""
    kept = [without_passwords(word) for word in sys.argv[1:] if word not in leave_out]
    return _command(kept)


def command_to_continue(directory: Path) -> str:
    """The command that continues the run in a directory, with modules and mirror as typed."""
    words = ["train", str(directory / CONFIG), "--run-dir", str(directory)]
    for option, value in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        if option in ("--import", "--track"):
            words += [option, value]
        elif option.startswith(("--import=", "--track=")):
            words.append(option)
    return _command(words)


def _command(words: Sequence[str]) -> str:
    name = Path(sys.argv[0]).name
    started = {"__main__.py": "python -m fwrl", "train.py": "python train.py"}.get(name, name)
    # train.py has added this word itself
    typed = words[1:] if name == "train.py" and words[:1] == ["train"] else words
    return f"{started} {shlex.join(typed)}"


def default_run_directory(config_file: Path, overrides: Sequence[str]) -> Path:
    """``runs/<config>``, with the overrides that make it another run."""
    changes = [text for text in overrides if text.split("=")[0].split(".")[0] not in MAY_CHANGE]
    return named_directory([config_file.stem, *sorted(changes)])


def named_directory(parts: Sequence[str]) -> Path:
    """The directory under ``runs`` whose name is made of these texts."""
    name = "".join(c if c.isalnum() or c in "._-=+," else "-" for c in "__".join(parts))
    if len(name.encode()) > LONGEST_NAME:
        # names that differ only behind the cut still differ
        digest = hashlib.sha256(name.encode()).hexdigest()[:12]
        name = f"{name.encode()[: LONGEST_NAME // 2].decode(errors='ignore')}__{digest}"
    return Path("runs") / name


@contextmanager
def claimed(directory: Path, fresh: bool = False) -> Generator[None]:
    """Lock a directory for this process alone, and make it if it does not exist.

    Args:
        directory: The directory of a run or of results.
        fresh: Start anew; an existing directory is kept under another name.

    Raises:
        ConfigError: If another process has locked it, or it cannot be made.
    """
    if fresh and directory.is_dir() and _content(directory):
        with _lock(directory):
            set_aside(directory)
    with _lock(directory):
        yield


@contextmanager
def _lock(directory: Path) -> Generator[None]:
    # the system releases the lock when the process ends, however it ends
    lock, owner = FileLock(directory / LOCK, timeout=0), directory / OWNER
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # the lock opens its file by name
        append_plain(directory / LOCK).close()
        lock.acquire()
        started = datetime.now().astimezone().isoformat(" ", "seconds")
        text = f"process {os.getpid()} on {platform.node()} since {started}\n"
        replace_plain(owner, text.encode())
    except Timeout:
        who = _owner_of(directory)
        raise ConfigError(
            f"{directory}: in use by {who}; wait until it has ended, or choose another directory"
        ) from None
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be written ({error.strerror})") from None
    ours = identity(directory)
    try:
        yield
    finally:
        # in the place of a directory that was moved there may be somebody else's
        if identity(directory) == ours:
            owner.unlink(missing_ok=True)
        lock.release()


@contextmanager
def staying(directory: Path) -> Generator[None]:
    """A block that works in a directory.

    Raises:
        ConfigError: If it was moved, deleted or replaced meanwhile, or its disk is full.
    """
    before = identity(directory)
    try:
        yield
    except (OSError, OneLineError) as error:
        # whatever could not be written: this is why
        _check_same(directory, before)
        if isinstance(error, OSError) and error.errno in FULL:
            raise ConfigError(
                f"{directory}: {error.strerror}; free some space, then the same command goes on"
            ) from None
        raise
    _check_same(directory, before)


def _check_same(directory: Path, before: tuple[int, int] | None) -> None:
    if identity(directory) != before:
        raise ConfigError(
            f"{directory}: was moved, deleted or replaced while this command worked in it; what it "
            "has written may be incomplete: bring the directory back and repeat the command"
        ) from None


def _owner_of(directory: Path) -> str:
    try:
        return read_plain(directory / OWNER, LARGEST_OWNER).decode(errors="replace").strip()
    except (FileNotFoundError, FileError):
        return "another process"


def open_run(directory: Path, config: RunConfig) -> bool:
    """Make the directory this configuration's run; returns whether there is one to continue.

    A run to continue is left as it is; ``keep_config`` comes when nothing can be refused any more.

    Raises:
        ConfigError: If the directory holds something else, or has lost its checkpoints.
    """
    otherwise = "choose another --run-dir"
    if list_checkpoints(directory):
        check_config(directory, config, MAY_CHANGE, otherwise)
        return True
    open_directory(directory, config, MAY_CHANGE, otherwise)
    # a run writes its first checkpoint before its first row
    if has_rows(directory / TABLE):
        raise ConfigError(
            f"{directory}: has a {TABLE} and no checkpoints; bring them back, "
            "or start anew with --fresh, which keeps what is there under another name"
        )
    return False


def as_begun(directory: Path, config: ConfigType) -> ConfigType:
    """The configuration with which a run goes on: what it meant by keys that are younger than it.

    Raises:
        ConfigError: If the directory has a configuration that cannot be read.
    """
    if not os.path.lexists(directory / CONFIG):
        return config
    return as_stored(config, read_config(directory, type(config)))


def open_directory(
    directory: Path, config: Config, may_change: Collection[str], otherwise: str
) -> None:
    """Write the configuration into a directory that is empty or has the same one.

    Args:
        directory: Locked by ``claimed``.
        config: The configuration that the user asks for now.
        may_change: The fields in which the stored configuration may differ.
        otherwise: The advice given if the directory holds something else.

    Raises:
        ConfigError: If it does.
    """
    if not _content(directory):
        create(directory, config)
        return
    check_config(directory, config, may_change, otherwise)
    keep_config(directory, config)


def check_config(
    directory: Path, config: Config, may_change: Collection[str], otherwise: str
) -> None:
    """Check that a directory has this configuration; raises as ``open_directory`` does."""
    stored = read_config(directory, type(config))
    old, new = (
        {key: value for key, value in each.model_dump(mode="json").items() if key not in may_change}
        for each in (stored, config)
    )
    different = differences(old, new)
    if different:
        more = len(different) - MOST_DIFFERENCES
        shown = "; ".join(different[:MOST_DIFFERENCES]) + (f"; {more} more" if more > 0 else "")
        raise ConfigError(
            f"{directory}: holds another run, it differs in {shown}; "
            f"{otherwise}, or start anew with --fresh"
        )


def _content(directory: Path) -> list[Path]:
    """The files of a directory, except locks and what an interrupted ``create`` has left."""
    marks = {LOCK, OWNER} if (directory / CONFIG).exists() else {LOCK, OWNER, *FIRST}
    unfinished = tuple(f".{name}." for name in (CONFIG, OWNER, *FIRST))
    return [
        path
        for path in directory.iterdir()
        if path.name not in marks and not path.name.startswith(unfinished)
    ]


def read_run_config(directory: Path) -> RunConfig:
    """The configuration of an existing run.

    Raises:
        ConfigError: If the directory is not a run.
    """
    return read_config(directory, RunConfig)


def read_config(directory: Path, model: type[ConfigType]) -> ConfigType:
    """The configuration in a directory.

    Raises:
        ConfigError: If the directory has none, or one of another kind.
    """
    if not directory.is_dir():
        raise ConfigError(no_run(directory))
    if not os.path.lexists(directory / CONFIG):
        raise ConfigError(f"{directory}: not a run directory, it has no {CONFIG}")
    path = directory / CONFIG
    return validate_stored(model, read_yaml(path, links=False), str(path))


def create(directory: Path, config: Config) -> None:
    """Write the first files of a run or of results into an empty directory."""
    # the configuration comes last: without it nothing has begun
    text = f"{json.dumps(versions(), indent=1)}\n"
    replace_plain(directory / "versions.json", text.encode())
    replace_plain(directory / "command.txt", f"{command_typed()}\n".encode())
    keep_config(directory, config)


def keep_config(directory: Path, config: Config) -> None:
    """Write the configuration of a directory, in place of the one that it has."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    replace_plain(directory / CONFIG, text.encode())


def versions() -> dict[str, Any]:
    """The versions of Python, the system and the packages that affect results."""
    machine = {"python": platform.python_version(), "platform": system()}
    return machine | package_versions()


def package_versions() -> dict[str, str]:
    """The versions of the packages that affect results."""
    return {name: version(name) for name in PACKAGES}


def system() -> str:
    """The operating system, the machine and the C library, such as "Linux x86_64, glibc 2.36".

    The name of the kernel's build is left out: it tells who runs it, and nothing about results.
    """
    library = " ".join(filter(None, platform.libc_ver()))
    return ", ".join(filter(None, [f"{platform.system()} {platform.machine()}", library]))
