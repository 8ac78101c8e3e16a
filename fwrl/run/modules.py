"""Modules that the user asks to import: the only way in which a command runs somebody else's code.

No file can ask for it: a configuration only names environments that are registered already.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from fwrl.config import ConfigError

OURS = ("fwrl", "agents", "envs")


def import_words(names: Sequence[str]) -> list[str]:
    """The options that make another command import the same modules."""
    return [word for name in names for word in ("--import", name)]


def import_modules(names: Sequence[str]) -> None:
    """Import modules that register environments; also from the present directory.

    Raises:
        ConfigError: If one cannot be imported.
    """
    here = Path.cwd()
    # last, so that no file here is taken for a module of Python or of ours
    if names and str(here) not in sys.path:
        sys.path.append(str(here))
    for name in names:
        _check_name(name, here)
        try:
            module = importlib.import_module(name)
        except KeyboardInterrupt:
            raise
        # the module's author may raise anything, or ask Python to exit
        except BaseException as error:
            raise ConfigError(f"--import {name}: {type(error).__name__}: {error}") from error
        _check_file(name, module.__spec__.origin if module.__spec__ else None, here)


def _check_name(name: str, here: Path) -> None:
    file = name.endswith(".py") or "/" in name or "\\" in name
    if file and (here / name).is_file():
        parts = Path(name).with_suffix("").parts
        right = f"the name of the module, {'.'.join(parts)}, from the folder it is in"
        raise ConfigError(f"--import is {name!r}, a file; it should be {right}")
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"--import is {name!r}; it should be the name of a module, like a.b")
    if name.partition(".")[0] in OURS:
        raise ConfigError(f"--import is {name!r}, a package of fwrl; give yours another name")


def _check_file(name: str, imported: str | None, here: Path) -> None:
    """Check that a module is not another one than a file of its name in the present directory."""
    parts = name.split(".")
    meant = [here.joinpath(*parts).with_suffix(".py"), here.joinpath(*parts, "__init__.py")]
    there = [path for path in meant if path.is_file()]
    if there and imported is not None and Path(imported).resolve() != there[0].resolve():
        raise ConfigError(
            f"--import is {name!r}, which is {imported}, not {there[0]}; give yours another name"
        )
