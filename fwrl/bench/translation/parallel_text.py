"""Sentences and their translations, from files with one sentence per line."""

from pathlib import Path
from typing import NamedTuple

from fwrl.config import ConfigError

# A sentence and its translation.
Pair = tuple[str, str]


class Splits(NamedTuple):
    """Pairs for training, for choosing settings, and for the results."""

    train: list[Pair]
    valid: list[Pair]
    test: list[Pair]


def read_parallel(folder: Path, source: str, target: str) -> Splits:
    """The files ``train``, ``valid`` and ``test`` of a folder, in UTF-8.

    Pairs with an empty side are left out of ``train``.

    Args:
        folder: Contains ``train.en``, ``train.de`` and so on.
        source: Ending of the files to translate from, ``en``.
        target: Ending of the files with the translations, ``de``.

    Raises:
        ConfigError: If a file is missing or no text, or if two files differ in length.
    """
    if source == target:
        raise ConfigError(f"data: both languages are {source!r}; use two")
    train, valid, test = (
        _pairs(folder / f"{name}.{source}", folder / f"{name}.{target}")
        for name in ("train", "valid", "test")
    )
    return Splits([pair for pair in train if all(pair)], valid, test)


def _pairs(source: Path, target: Path) -> list[Pair]:
    sources, targets = _lines(source), _lines(target)
    if len(sources) != len(targets):
        raise ConfigError(
            f"data: {source} has {len(sources)} lines, but {target} has {len(targets)}; "
            f"line n of one must translate line n of the other"
        )
    pairs = list(zip(sources, targets, strict=True))
    if not any(all(pair) for pair in pairs):
        raise ConfigError(f"data: {source} and {target} hold no pair of sentences; fill them")
    return pairs


def _lines(path: Path) -> list[str]:
    try:
        # only line feeds end a line: other separators occur inside sentences from the web
        text = path.read_text(encoding="utf-8")
    except OSError:
        raise ConfigError(
            f"data: {path} cannot be read; train, valid and test are wanted in both languages"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"data: {path} is not UTF-8 at byte {error.start}; convert it") from None
    return [" ".join(line.split()) for line in text.removesuffix("\n").split("\n")]
