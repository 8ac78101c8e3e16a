"""The run directory: everything about a run, in one place that explains itself."""

import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Collection, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from agents.saving import best_checkpoint, list_checkpoints
from fwrl.cli.run_config import MAY_CHANGE, RunConfig
from fwrl.cli.yaml_files import configs_directory, differences, read_yaml
from fwrl.config import Config, ConfigError, ConfigType, validate

CONFIG = "config.yaml"
PACKAGES = ("torch", "numpy", "gymnasium", "ale-py", "stable-baselines3", "safetensors", "fwrl")


def find_config(path: Path) -> Path:
    """The file that is meant: as given, or else one of ours, with or without ``configs/``."""
    inside = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    ours = configs_directory() / inside
    return ours if not path.exists() and not path.is_absolute() and ours.is_file() else path


def default_run_directory(config_file: Path, overrides: Sequence[str]) -> Path:
    """``runs/<config>``, with the overrides that make it another run."""
    changes = [text for text in overrides if text.split("=")[0].split(".")[0] not in MAY_CHANGE]
    return named_directory([config_file.stem, *sorted(changes)])


def named_directory(parts: Sequence[str]) -> Path:
    """The place under ``runs`` of what is told apart by these texts."""
    name = "__".join(parts)
    return Path("runs") / "".join(c if c.isalnum() or c in "._-=+," else "-" for c in name)


def open_run(directory: Path, config: RunConfig, fresh: bool) -> bool:
    """Make the directory this configuration's run; True if one is there to be continued.

    Args:
        directory: Of the run.
        config: What the user asked for now.
        fresh: Start anew; the old run is kept under another name.

    Raises:
        ConfigError: If the directory holds something else.
    """
    open_directory(directory, config, MAY_CHANGE, fresh, "choose another --run-dir")
    return bool(list_checkpoints(directory))


def open_directory(
    directory: Path, config: Config, may_change: Collection[str], fresh: bool, otherwise: str
) -> None:
    """Make the directory this configuration's own; what is there of the same is kept.

    Args:
        directory: Made if it is not there.
        config: What the user asked for now.
        may_change: The fields in which the configuration that is there may differ.
        fresh: Start anew; what is there is kept under another name.
        otherwise: What to do where the directory holds something else.

    Raises:
        ConfigError: If it does.
    """
    if fresh and directory.exists():
        set_aside(directory)
    if not directory.exists() or not any(directory.iterdir()):
        _create(directory, config)
        return
    stored = read_config(directory, type(config))
    old, new = (
        {key: value for key, value in each.model_dump(mode="json").items() if key not in may_change}
        for each in (stored, config)
    )
    different = differences(old, new)
    if different:
        raise ConfigError(
            f"{directory}: holds another run: {different[0]} differs; "
            f"{otherwise}, or start anew with --fresh"
        )
    _write_config(directory, config)


def read_run_config(directory: Path) -> RunConfig:
    """The configuration of an existing run.

    Raises:
        ConfigError: If the directory is not a run.
    """
    return read_config(directory, RunConfig)


def read_config(directory: Path, model: type[ConfigType]) -> ConfigType:
    """The configuration in a directory.

    Raises:
        ConfigError: If the directory has none, or another one.
    """
    if not directory.is_dir():
        raise ConfigError(f"{directory}: no such run directory")
    if not os.path.lexists(directory / CONFIG):
        raise ConfigError(f"{directory}: not a run directory, it has no {CONFIG}")
    return validate(model, read_yaml(directory / CONFIG, links=False), str(directory / CONFIG))


def set_aside(directory: Path) -> Path:
    """Rename an old run to the first free ``<name>.<number>``."""
    number = 1
    while (aside := directory.with_name(f"{directory.name}.{number}")).exists():
        number += 1
    return directory.rename(aside)


def prune_checkpoints(directory: Path, keep: int) -> None:
    """Delete all checkpoints but the newest ``keep`` and the best."""
    folders = list_checkpoints(directory)
    if folders:
        best = best_checkpoint(folders)
        for folder in folders[:-keep]:
            if folder != best:
                shutil.rmtree(folder)


def _create(directory: Path, config: Config) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be made ({error.strerror})") from None
    (directory / "versions.json").write_text(json.dumps(versions(), indent=1) + "\n")
    (directory / "command.txt").write_text(shlex.join(sys.argv) + "\n")
    _write_config(directory, config)


def _write_config(directory: Path, config: Config) -> None:
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    temporary = directory / f".{CONFIG}.{os.getpid()}"
    temporary.write_text(text)
    temporary.replace(directory / CONFIG)


def versions() -> dict[str, Any]:
    """Of Python, the system and the packages that decide about results."""
    machine = {"python": platform.python_version(), "platform": platform.platform()}
    return machine | package_versions()


def package_versions() -> dict[str, str]:
    """Of the packages that decide about results."""
    return {name: version(name) for name in PACKAGES}
