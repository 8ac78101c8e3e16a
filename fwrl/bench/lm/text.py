"""Text corpora for language models, as bytes or as words, and how they are cut into batches.

Three sources: the source text of Python's standard library, which every machine has; a folder of
plain files as WikiText (Merity et al. 2017) and the Penn Treebank (Mikolov et al. 2010) come in;
WikiText from the Hugging Face hub. Nothing is downloaded but by the last.
"""

import hashlib
import importlib
import io
import os
import platform
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Int, Integer
from torch import Tensor

from fwrl.config import ConfigError, nearest

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

LIBRARY = "library"
HUB = "hub:"

# Left out of the library: tests, other packages, tables, huge texts and generated files.
LEFT_OUT = re.compile(
    r"site-packages|dist-packages|tests?|idle_test|__pycache__|encodings|pydoc_data"
    r"|config-.*|_sysconfigdata.*|(site|user)customize\.py"
)
# Shares of the library's files; the rest is the test split.
SHARES: dict[Split, float] = {"train": 0.9, "valid": 0.05}

NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "valid": ("valid", "validation", "val"),
    "test": ("test",),
}
FORMS = ("wiki.{}.tokens", "ptb.{}.txt", "{}.txt", "wiki.{}.raw")
ON_HUB = ("wikitext-2", "wikitext-2-raw", "wikitext-103", "wikitext-103-raw")

END_OF_LINE = "<eos>"
UNKNOWN = "<unk>"
# A word of program text: a name, a number, or a sign.
PROGRAM_WORD = re.compile(r"\w+|[^\w\s]")

Tokens = Integer[Tensor, " N"]


class Corpus(NamedTuple):
    """Three texts in numbers; word 0 is the most frequent one of the training text."""

    name: str
    # tells apart two texts of the same name
    sha256: str
    # the word of each number; empty at the level of bytes
    words: tuple[str, ...]
    train: Tokens
    valid: Tokens
    test: Tokens

    @property
    def vocabulary(self) -> int:
        """The number of different tokens."""
        return len(self.words) or 256

    def text(self, tokens: Iterable[int]) -> str:
        """The text of the tokens; bytes that are not UTF-8 are marked."""
        if not self.words:
            return bytes(tokens).decode(errors="replace")
        words = " ".join(self.words[token] for token in tokens)
        return words.replace(f" {END_OF_LINE}", "\n").replace("\n ", "\n")


def load_corpus(
    source: str, level: Literal["byte", "word"], limits: dict[Split, int | None] | None = None
) -> Corpus:
    """A corpus that depends on nothing but its texts.

    At the level of words a line ends with ``<eos>``, and a word that is not in the training text
    becomes ``<unk>``. If the training text has no ``<unk>``, its words that occur once become it.

    Args:
        source: ``library``, a folder, or ``hub:`` and one of ``ON_HUB``.
        level: Whether a token is a byte or a word.
        limits: Most bytes of each split; missing or None: all.

    Raises:
        ConfigError: If the source has no such texts.
    """
    limits = limits or {}
    if source == LIBRARY:
        name, texts = f"python-{platform.python_version()}", _library()
    elif source.startswith(HUB):
        name, texts = source.removeprefix(HUB), _from_hub(source.removeprefix(HUB))
    else:
        name, texts = Path(source).name, _from_folder(Path(source))
    found = {split: _limited(texts[split], limits.get(split)) for split in SPLITS}
    digest = hashlib.sha256()
    for split, text in found.items():
        if not text.strip():
            raise ConfigError(f"corpus: the {split} text of {source} is empty")
        digest.update(len(text).to_bytes(8, "big") + text)
    if level == "byte":
        tokens = [torch.frombuffer(bytearray(text), dtype=torch.uint8) for text in found.values()]
        return Corpus(name, digest.hexdigest(), (), *tokens)
    pattern = PROGRAM_WORD if source == LIBRARY else None
    words = _vocabulary(Counter(_words(found["train"], pattern)))
    numbers = {word: number for number, word in enumerate(words)}
    unknown = numbers[UNKNOWN]
    tokens = [
        torch.from_numpy(
            np.fromiter((numbers.get(word, unknown) for word in _words(text, pattern)), np.int32)
        )
        for text in found.values()
    ]
    return Corpus(name, digest.hexdigest(), words, *tokens)


def split_of(path: PurePath) -> Split:
    """The split of a file of the library, which depends on nothing but its path there."""
    share, edge = int(_rank(path)[:8], 16) / 16**8, 0.0
    for split, part in SHARES.items():
        edge += part
        if share < edge:
            return split
    return "test"


def in_rows(tokens: Tokens, rows: int) -> Integer[Tensor, "B length"]:
    """A text cut into ``rows`` pieces of equal length; fewer than ``rows`` tokens are left over."""
    length = len(tokens) // rows
    return tokens[: rows * length].view(rows, length)


def segment(
    rows: Integer[Tensor, "B length"], index: int, length: int
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """The tokens of one segment, and the token after each; the last segment can be shorter."""
    start = index * length
    piece = rows[:, start : start + length + 1].long()
    return piece[:, :-1], piece[:, 1:]


def windows(
    tokens: Tokens, length: int, stride: int, batch_size: int
) -> Iterator[tuple[Int[Tensor, "B T"], Int[Tensor, "B S"]]]:
    """Windows that slide over a text, and the targets of their last times, each target once.

    The first window has targets at all its times, each other one at its last ``stride`` times,
    which have then seen at least ``length - stride + 1`` tokens; the last one has the rest.
    """
    inputs, targets = tokens[:-1].long(), tokens[1:].long()
    length = min(length, len(inputs))
    yield inputs[None, :length], targets[None, :length]
    asked = length
    ends = range(length + stride, len(inputs) + 1, stride)
    for first in range(0, len(ends), batch_size):
        some = ends[first : first + batch_size]
        at = torch.tensor(some).unsqueeze(1)
        yield inputs[at + torch.arange(-length, 0)], targets[at + torch.arange(-stride, 0)]
        asked = some[-1]
    if asked < len(inputs):
        yield inputs[None, -length:], targets[None, asked:]


def _rank(path: PurePath) -> str:
    return hashlib.sha256(path.as_posix().encode()).hexdigest()


def _library() -> dict[Split, Iterator[bytes]]:
    """The library's files in pseudo-random order, so that a limit takes some of everything."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths: list[Path] = []
    for folder, folders, names in os.walk(root):
        # folders left out can be much larger than the library, and are not walked through
        folders[:] = [name for name in folders if not LEFT_OUT.fullmatch(name)]
        own = [name for name in names if name.endswith(".py") and not LEFT_OUT.fullmatch(name)]
        paths += [Path(folder, name).relative_to(root) for name in own]
    if not paths:
        raise ConfigError(
            f"corpus: {root} has no source text of Python's library; give a folder of texts"
        )
    paths.sort(key=_rank)

    def texts(split: Split) -> Iterator[bytes]:
        for path in paths:
            if split_of(path) == split:
                yield (root / path).read_bytes().replace(b"\r\n", b"\n")

    return {split: texts(split) for split in SPLITS}


def _from_folder(folder: Path) -> dict[Split, Iterator[bytes]]:
    paths: dict[Split, Path] = {}
    for split in SPLITS:
        names = [form.format(name) for name in NAMES[split] for form in FORMS]
        there = [folder / name for name in names if (folder / name).is_file()]
        if not there:
            what = f"has no {split} text" if folder.is_dir() else "is not a folder"
            raise ConfigError(
                f"corpus: {folder} {what}; give one with {', '.join(names[:3])} or the like, "
                f"'{LIBRARY}', or '{HUB}' and one of {', '.join(ON_HUB)}"
            )
        paths[split] = there[0]

    def lines(path: Path) -> Iterator[bytes]:
        with path.open("rb") as file:
            yield from file

    return {split: lines(path) for split, path in paths.items()}


def _from_hub(name: str) -> dict[Split, Iterator[bytes]]:
    """Texts by the package ``datasets``, which caches its downloads."""
    if name not in ON_HUB:
        raise ConfigError(f"corpus: {HUB}{name} is not known; {nearest(name, ON_HUB)}")
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError:
        raise ConfigError(
            f"corpus: {HUB}{name} needs the package datasets; pip install 'fwrl[lm]'"
        ) from None
    try:
        found = datasets.load_dataset("Salesforce/wikitext", f"{name}-v1")
    except OSError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"corpus: {HUB}{name} cannot be loaded: {reason}") from None

    def lines(rows: Any) -> Iterator[bytes]:
        for row in rows:
            yield row["text"].rstrip("\n").encode() + b"\n"

    names: dict[Split, str] = {"train": "train", "valid": "validation", "test": "test"}
    return {split: lines(found[there]) for split, there in names.items()}


def _limited(pieces: Iterable[bytes], limit: int | None) -> bytes:
    """The pieces as one text; of a text that is too long, the lines that fit."""
    text = io.BytesIO()
    for piece in pieces:
        text.write(piece)
        if limit is not None and text.tell() > limit:
            return text.getvalue()[:limit].rpartition(b"\n")[0] + b"\n"
    return text.getvalue()


def _words(text: bytes, pattern: re.Pattern[str] | None) -> Iterator[str]:
    """The words one by one: a large text need not exist as a list of words."""
    for line in io.BytesIO(text):
        words = line.decode(errors="replace")
        yield from pattern.findall(words) if pattern else words.split()
        yield END_OF_LINE


def _vocabulary(counts: Counter[str]) -> tuple[str, ...]:
    """The words by decreasing frequency; equally frequent ones in alphabetical order."""
    if UNKNOWN not in counts:
        rare = [word for word, count in counts.items() if count == 1]
        for word in rare:
            del counts[word]
        counts[UNKNOWN] = len(rare)
    return tuple(sorted(counts, key=lambda word: (-counts[word], word)))
