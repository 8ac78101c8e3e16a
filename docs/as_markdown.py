"""Docstrings and tables of the code as Markdown."""

import inspect
import re


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table of rows below a head."""
    # a bar inside a cell would end it
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def plain(text: str) -> str:
    """A docstring as Markdown, with the words of YAML for those of Python."""
    text = " ".join(text.split()).replace("``", "`")
    words = {"None": "null", "True": "true", "False": "false"}
    return re.sub(r"\b(None|True|False)\b", lambda found: f"`{words[found[1]]}`", text)


def paragraphs(documented: object) -> list[str]:
    """The paragraphs of a docstring, as Markdown."""
    return [plain(text) for text in (inspect.getdoc(documented) or "").split("\n\n")]
