"""Run configurations that are made of one base by overrides, and their directories."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fwrl.config import ConfigError, validate
from fwrl.run.config import MAY_CHANGE, RunConfig
from fwrl.run.directory import claimed, find_config, open_directory
from fwrl.run.modules import import_words
from fwrl.run.yaml_files import apply_overrides, read_yaml


def base_values(config: str | dict[str, Any]) -> dict[str, Any]:
    """What a configuration file says, or a copy of what stands in its place."""
    return (
        read_yaml(find_config(Path(config))) if isinstance(config, str) else copy.deepcopy(config)
    )


def variant(
    name: str, base: dict[str, Any], overrides: Sequence[Sequence[str]], seed: int
) -> RunConfig:
    """The base with the overrides of each group in turn.

    Raises:
        ConfigError: Opening with ``name``.
    """
    values = copy.deepcopy(base)
    try:
        for group in overrides:
            apply_overrides(values, group)
        return validate(RunConfig, values | {"seed": seed})
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def prepare_directory(directory: Path, config: RunConfig) -> None:
    """Make the directory this configuration's run, for a process that will train it.

    Raises:
        ConfigError: If it holds another run, or another process works in it.
    """
    with claimed(directory):
        open_directory(directory, config, MAY_CHANGE, "choose another --out")


def train_words(directory: Path, imports: Sequence[str]) -> list[str]:
    """The command that begins or continues the run of a directory that was prepared."""
    words = ["train", str(directory / "config.yaml"), "--run-dir", str(directory)]
    return [*words, *import_words(imports)]
