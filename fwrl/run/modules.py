"""Modules that the user asks to import: the only way in which a command runs somebody else's code.

No file can ask for it: a configuration only names environments that are registered already.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from fwrl.config import ConfigError


def import_words(names: Sequence[str]) -> list[str]:
    """The options that make another command import the same modules."""
    return [word for name in names for word in ("--import", name)]


def import_modules(names: Sequence[str]) -> None:
    """Import modules that register environments; also from the present directory.

    Raises:
        ConfigError: If one cannot be imported.
    """
    here = str(Path.cwd())
    # last, so that no file here is taken for a module of Python or of ours
    if names and here not in sys.path:
        sys.path.append(here)
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ConfigError(f"--import is {name!r}; it should be the name of a module, like a.b")
        try:
            importlib.import_module(name)
        # the module's author may raise anything
        except Exception as error:
            raise ConfigError(f"--import {name}: {type(error).__name__}: {error}") from error
