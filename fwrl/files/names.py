"""Names of runs and of exported policies, told apart without reading anything."""

from pathlib import Path

from fwrl.config import ConfigError

ENDING = ".safetensors"


def is_exported(path: Path) -> bool:
    """Whether a path names an exported file rather than a directory."""
    return path.suffix == ENDING and not path.is_dir()


def no_run(path: Path) -> str:
    """The error message for a path that is not a run directory."""
    if is_exported(path) and path.is_file():
        return f"{path}: an exported policy, which can only be evaluated; expected a run directory"
    if path.is_file():
        return f"{path}: a file; expected a run directory"
    return f"{path}: no such run directory"


def check_exists(path: Path) -> None:
    """Check that there is a run or an exported file of this name.

    Raises:
        ConfigError: If there is nothing.
    """
    if not path.exists():
        raise ConfigError(f"{path}: no such file" if is_exported(path) else no_run(path))
