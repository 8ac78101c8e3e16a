"""Configurations as their authors write them: YAML files, and dotted overrides after them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from fwrl.config import ConfigError

# What is meant where a file names no kind.
DEFAULT_KINDS = {"core": "fast_weight", "env": "gymnasium"}


def configs_directory() -> Path:
    """Where our own configurations are: beside the packages, or inside an installed wheel."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "configs"


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: If there is no such file, or no mapping in it.
    """
    try:
        values = _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; `fwrl list configs` shows what there is"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {type(values).__name__}; it should hold key: value lines")
    return cast(dict[str, Any], values)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 3e-4 as text; this one reads a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set the keys of ``key=value`` texts; where one sets a kind, it comes first.

    Raises:
        ConfigError: For a text that is no override, or leads into what has no keys.
    """
    for override in sorted(overrides, key=lambda text: not _sets_kind(text)):
        _apply(values, override)


def _sets_kind(override: str) -> bool:
    return override.partition("=")[0].endswith("kind")


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one dotted key. Another ``kind`` starts from that kind's own defaults."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r}: not an override; it should be KEY=VALUE, like seed=1")
    try:
        value = _Loader(text).get_single_data()
    except yaml.YAMLError:
        raise ConfigError(f"{key}: {text!r} is not a YAML value") from None
    *parents, name = key.split(".")
    mapping = values
    for i, parent in enumerate(parents):
        child = mapping.setdefault(parent, {})
        if not isinstance(child, dict):
            where = ".".join(parents[: i + 1])
            raise ConfigError(f"{key}: {where} is {child!r}, which has no keys inside")
        mapping = cast(dict[str, Any], child)
    if name == "kind" and mapping.get("kind", DEFAULT_KINDS.get(parents[-1])) != value:
        mapping.clear()
    mapping[name] = value


def differences(old: Mapping[str, Any], new: Mapping[str, Any], where: str = "") -> list[str]:
    """The dotted keys that differ between two configurations written as mappings."""
    found: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        place = f"{where}.{key}" if where else key
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(cast(dict[str, Any], before), cast(dict[str, Any], after), place)
        elif before != after:
            found.append(f"{place} ({before!r} there, {after!r} here)")
    return found
