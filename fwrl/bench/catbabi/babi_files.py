"""The files of bAbI v1.2 as stories with their answers inline (Weston et al. 2015).

The data are not part of this library: the folder is that of one language and size, such as
``en-valid-10k``.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from fwrl.bench.catbabi.stories import Story, Text
from fwrl.config import ConfigError

SPLITS = "train", "valid", "test"
# Without a validation set, one training story in so many is held back for it.
VALID_EVERY = 10
NAME = re.compile(r"(qa\d+)(?:_.*)?_(train|valid|test)\.txt")
WORD = re.compile(r"[^\s.?!,]+|[.?!,]")


def read_babi(folder: Path) -> dict[str, list[Story]]:
    """The stories of each split, task by task.

    Without files for ``valid``, every tenth story of the training set is held back.

    Raises:
        ConfigError: If the folder has no such files, or one is not in the format.
    """
    files = {
        (match[1], match[2]): path
        for path in sorted(folder.glob("qa*.txt"))
        if (match := NAME.fullmatch(path.name))
    }
    tasks = sorted({task for task, _ in files}, key=lambda task: int(task[2:]))
    if not tasks:
        raise ConfigError(
            f"data: {folder} holds no bAbI files; it should be a folder such as en-valid-10k, "
            f"with qa1_train.txt, qa1_valid.txt and qa1_test.txt"
        )
    stories: dict[str, list[Story]] = {split: [] for split in SPLITS}
    for task in tasks:
        for split in SPLITS:
            path = files.get((task, split))
            if path is not None:
                stories[split] += [Story(task, words) for words in _stories(path)]
            elif split != "valid":
                raise ConfigError(f"data: {folder} holds {task} but not its {split} file")
    if not stories["valid"]:
        told = stories["train"]
        stories["valid"] = told[::VALID_EVERY]
        stories["train"] = [each for i, each in enumerate(told) if i % VALID_EVERY]
    for split, found in stories.items():
        if not found:
            raise ConfigError(f"data: {folder} has no stories to use for {split}")
    return stories


def _stories(path: Path) -> Iterator[Text]:
    """The stories of a file; one begins wherever the line numbers begin again."""
    words: Text = []
    for count, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        number, _, rest = line.strip().partition(" ")
        if not number.isdigit():
            raise ConfigError(f"{path}, line {count} is {line!r}; it should begin with a number")
        if number == "1" and words:
            yield words
            words = []
        words += _line(rest, f"{path}, line {count}")
    if words:
        yield words


def _line(text: str, where: str) -> Text:
    """A statement, or a question with its answer; references to supporting facts are left out."""
    said, *asked = text.split("\t")
    words: Text = WORD.findall(said.lower())
    questions = words.count("?")
    if not asked and not questions:
        return words
    if questions != 1 or words[-1] != "?" or not asked or not asked[0].strip():
        raise ConfigError(
            f"{where} is {text!r}; it should be a question, a tab and the answer, or a statement"
        )
    # an answer of several words is one token
    return [*words, "".join(asked[0].lower().split())]
