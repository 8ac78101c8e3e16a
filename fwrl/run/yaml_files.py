"""YAML files of configurations, and dotted ``key=value`` overrides."""

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from typing_extensions import override
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from fwrl.config import ConfigError
from fwrl.files.plain_files import MEBIBYTE, FileError, read_plain

LARGEST_FILE = MEBIBYTE
MOST_LEVELS = 32
MOST_DIGITS = 100
NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
TEXT = "tag:yaml.org,2002:str"
# The types, beside text, of words without quotes.
PLAIN = {*NUMBERS, "tag:yaml.org,2002:bool", "tag:yaml.org,2002:null"}
# The kinds of parts that name none.
DEFAULT_KINDS = {"core": "fast_weight", "env": "gymnasium"}


def configs_directory() -> Path:
    """The folder of fwrl's configurations: inside an installed wheel, or beside the packages."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "configs"


def find_config(path: Path) -> Path:
    """The path as given, or else the file of that name, or ``configs/`` name, among fwrl's own."""
    inside = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    ours = configs_directory() / inside
    return ours if not path.exists() and not path.is_absolute() and ours.is_file() else path


def read_yaml(path: Path, links: bool = True) -> dict[str, Any]:
    """The mapping in a YAML file.

    Args:
        path: The file.
        links: Whether the file may be a symbolic link.

    Raises:
        ConfigError: If there is no such file, or no mapping in it.
    """
    try:
        values = parse_yaml(read_plain(path, LARGEST_FILE, links).decode("utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; `fwrl list configs` shows what there is"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    except FileError as error:
        raise ConfigError(str(error)) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {_words(error)}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {type(values).__name__}; it should hold key: value lines")
    return cast(dict[str, Any], values)


def is_env_id(path: Path) -> bool:
    """Whether this is no file, but the id of an environment, which ends with its version."""
    return re.search(r"-v\d+$", path.name) is not None and not path.exists()


def read_config(path: Path) -> dict[str, Any]:
    """The values in a configuration file, or those that the id of an environment stands for.

    Raises:
        ConfigError: As ``read_yaml`` does.
    """
    return {"env": {"id": path.as_posix()}} if is_env_id(path) else read_yaml(path)


def find_readable(path: Path) -> Path:
    """The path of ``find_config``, once it is clear that there is a configuration in it.

    Commands call it before they import what takes seconds: a misspelt name is told at once.

    Raises:
        ConfigError: If there is not.
    """
    found = find_config(path)
    read_config(found)
    return found


def parse_yaml(text: str) -> Any:
    """The value of a text in the part of YAML that configurations need.

    These are mappings whose keys are different texts; lists, texts, numbers, true, false and null.
    Tags, anchors, aliases and deep nesting are refused.

    Raises:
        yaml.YAMLError: If the text is anything else.
    """
    try:
        return _Loader(text).get_single_data()
    # texts that begin like numbers and are none, such as 0b
    except (ValueError, OverflowError) as error:
        raise yaml.YAMLError(str(error)) from None


def _words(error: yaml.YAMLError) -> str:
    """The mistake and its line and column, without the excerpt that PyYAML adds."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})"
    return str(error)


class _Loader(yaml.SafeLoader):
    """A loader that is stricter than PyYAML's, and reads 3e-4, a text in YAML 1.1, as a number."""

    levels = 0

    @override
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            raise ComposerError(problem="*aliases are not read here", problem_mark=mark)
        if getattr(event, "anchor", None) is not None:
            raise ComposerError(problem="&anchors are not read here", problem_mark=mark)
        if getattr(event, "tag", None) is not None:
            raise ComposerError(problem=f"no type can be named: {event.tag!r}", problem_mark=mark)
        self.levels += 1
        if self.levels > MOST_LEVELS:
            raise ComposerError(problem=f"more than {MOST_LEVELS} levels", problem_mark=mark)
        node = super().compose_node(parent, index)
        self.levels -= 1
        return node

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = key.value
            if key.tag != TEXT:
                raise ConstructorError(
                    problem=f"the key {name!r} is no text; quotes make it one",
                    problem_mark=key.start_mark,
                )
            if name in seen:
                raise ConstructorError(
                    problem=f"the key {name!r} stands there twice", problem_mark=key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)

    @override
    def construct_scalar(self, node: Any) -> Any:
        if node.tag in NUMBERS and len(node.value) > MOST_DIGITS:
            raise ConstructorError(
                problem=f"a number has {len(node.value):,} digits", problem_mark=node.start_mark
            )
        return super().construct_scalar(node)


# No configuration has dates, merged keys and the like.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in PLAIN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set the keys of ``key=value`` texts: whole parts first, then each ``kind``.

    In a list a number leads to one entry, the first being 0, and a name into every entry.

    Raises:
        ConfigError: For a text that is no override, or a key that leads nowhere.
    """
    for text in sorted(overrides, key=_order):
        _apply(values, text)


def _order(override: str) -> int:
    """The place among other overrides: what discards values comes before what sets them."""
    key = override.partition("=")[0]
    return 1 if key.endswith("kind") else 2 if "." in key else 0


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one dotted key."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r}: not an override; it should be KEY=VALUE, like seed=1")
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}: {text!r} is not a YAML value: {_words(error)}") from None
    try:
        _set(values, key.split("."), value, ())
    except _NowhereError as error:
        raise ConfigError(f"{key}: {error}") from None


class _NowhereError(Exception):
    """A key that leads to nothing."""


def _set(inside: Any, names: Sequence[str], value: Any, path: tuple[str, ...]) -> None:
    """Set what names lead to; another ``kind`` discards the values of the former one.

    Args:
        inside: What they lead into.
        names: The names and numbers on the way.
        value: What is set.
        path: Those before them.
    """
    name, *rest = names
    if isinstance(inside, list):
        entries = cast(list[Any], inside)
        if not name.isdecimal():
            for number, entry in enumerate(entries):
                _set(entry, names, copy.deepcopy(value), (*path, str(number)))
            return
        if int(name) >= len(entries):
            where = ".".join(path)
            raise _NowhereError(f"{where} has {len(entries)} entries, the first is {where}.0")
        place: Any = int(name)
    elif isinstance(inside, dict):
        place = name
        section = [each for each in path if not each.isdecimal()][-1:]
        usual = DEFAULT_KINDS.get("".join(section))
        if name == "kind" and not rest and cast(Any, inside).get("kind", usual) != value:
            cast(Any, inside).clear()
        if rest:
            cast(Any, inside).setdefault(name, {})
    else:
        raise _NowhereError(f"{'.'.join(path)} is {inside!r}, which has no keys inside")
    if rest:
        _set(cast(Any, inside)[place], rest, value, (*path, name))
    else:
        cast(Any, inside)[place] = value


def differences(old: Mapping[str, Any], new: Mapping[str, Any], where: str = "") -> list[str]:
    """The dotted keys that differ between two configurations, and their values.

    Parts of two kinds, which have different keys, differ only in their kind.
    """
    found: list[str] = []
    kinds_differ = old.get("kind") != new.get("kind")
    for key in ["kind"] if kinds_differ else sorted(old.keys() | new.keys()):
        place = f"{where}.{key}" if where else key
        before, after = old.get(key), new.get(key)
        one, other = _inside(before), _inside(after)
        if type(before) is type(after) and (one or other):
            found += differences(one, other, place)
        elif before != after:
            found.append(f"{place} ({before!r} there, {after!r} here)")
    return found


def flat(values: Mapping[str, Any], where: str = "", lists: bool = False) -> dict[str, Any]:
    """The values of a configuration by their dotted keys.

    Args:
        values: The configuration.
        where: The key of all of it.
        lists: Whether a list of parts is flat too, each with its number.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        place = f"{where}.{key}" if where else key
        inside = _inside(value) if lists or isinstance(value, dict) else {}
        found |= flat(inside, place, lists) if inside else {place: value}
    return found


def _inside(value: Any) -> dict[str, Any]:
    """The keys and values inside a part; the keys of a list of parts are their numbers."""
    if isinstance(value, dict):
        return cast(dict[str, Any], value)
    entries = cast(list[Any], value) if isinstance(value, list) else []
    parts = all(isinstance(each, dict) for each in entries)
    return {str(number): each for number, each in enumerate(entries)} if parts else {}
