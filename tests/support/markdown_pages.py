"""The Markdown pages of the repository, their parts, and the objects that they name."""

import importlib
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TITLED = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def page_name(page):
    """The path of a page in the repository."""
    return page.relative_to(ROOT).as_posix()


def prose(page):
    """The text of a page without its fenced blocks."""
    return FENCED.sub("", page.read_text())


def titled_files(page):
    """The files that a page asks its reader to write: name -> text."""
    return dict(TITLED.findall(page.read_text()))


def find_object(name):
    """The object with a dotted name: the longest part that is a module, then attributes."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            value = getattr(value, part)
        return value
    raise AttributeError(f"no module {name}")
