"""Strict JSON: bounded in size, and read alike by every other reader."""

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from fwrl.files.plain_files import FileError, read_plain

# More than any honest document has; the limits bound the memory that its values take.
MOST_VALUES = 2_000_000
MOST_LEVELS = 64
# A number of 128 bits has 39 digits.
MOST_DIGITS = 100
LARGEST_COUNT = 2**53
# An escaped half of a surrogate pair; alone it is no character.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_json(path: Path, limit: int, links: bool = False) -> Any:
    """The value in a JSON file of at most ``limit`` bytes.

    Raises:
        FileNotFoundError: If the file does not exist.
        FileError: If it is not a regular file, too large or not strict JSON.
    """
    return parse_json(read_plain(path, limit, links), str(path))


def parse_json(data: bytes, where: str) -> Any:
    """The value of a JSON text.

    Numbers are finite and short, no object has two entries of one name, and nesting is bounded.

    Raises:
        FileError: If it is not such a text; ``where`` opens the message.
    """
    # an upper bound: each value follows one of these, which may also stand in texts
    if sum(map(data.count, b",[{")) > MOST_VALUES:
        raise FileError(f"{where}: cannot be read (more than {MOST_VALUES:,} values)")
    try:
        value: Any = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_no_number,
            parse_float=_finite,
            parse_int=_short,
        )
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        raise FileError(f"{where}: cannot be read (not UTF-8)") from None
    except RecursionError:
        raise FileError(f"{where}: cannot be read (nested too deeply)") from None
    except ValueError as error:
        raise FileError(f"{where}: cannot be read ({error})") from None
    if _deeper_than(value, MOST_LEVELS):
        raise FileError(f"{where}: cannot be read (more than {MOST_LEVELS} levels)")
    return value


def without_infinities(value: Any) -> Any:
    """A copy with ``None`` in place of infinities and NaN, which JSON does not have."""
    if isinstance(value, dict):
        pairs = cast(dict[Any, Any], value).items()
        return {key: without_infinities(part) for key, part in pairs}
    if isinstance(value, list | tuple):
        return [without_infinities(part) for part in cast(list[Any], value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_count(value: Any) -> bool:
    """Whether a value is a whole number from 0 to 2^53, up to which every program counts alike."""
    # True is an integer to Python
    return type(value) is int and 0 <= value <= LARGEST_COUNT


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"{twice!r} stands there twice")
    return values


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _short(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number has {len(text):,} digits")
    return int(text)


def _deeper_than(value: Any, levels: int) -> bool:
    """Whether containers are nested more than ``levels`` deep, found without recursion."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        level = [part for each in level for part in _parts(each) if isinstance(part, dict | list)]
        if not level:
            return False
    return True


def _parts(container: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container
