"""The files of a benchmark's results: results.csv, to which points are added, and results.json."""

import csv
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from fwrl.bench.benchmark import Row, Value
from fwrl.config import ConfigError
from fwrl.files.json_files import without_infinities
from fwrl.files.plain_files import MEBIBYTE, FileError, read_plain, replace_plain
from fwrl.run.directory import system

# In bytes; as long as a table of a hundred thousand rows.
LARGEST_TABLE = 4 * MEBIBYTE
TABLE, DOCUMENT = "results.csv", "results.json"


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV file; numbers are read as numbers, empty cells are left out.

    Raises:
        ConfigError: If the file is not a table.
    """
    try:
        text = read_plain(path, LARGEST_TABLE, links=True).decode("utf-8")
        columns, *lines = list(csv.reader(StringIO(text, newline=""), strict=True)) or [[]]
    except FileNotFoundError:
        return []
    except FileError as error:
        raise ConfigError(str(error)) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: not a table ({error})") from None
    if "\0" in text:
        raise ConfigError(f"{path}: not a table, it has zero bytes")
    if len(set(columns)) < len(columns):
        raise ConfigError(f"{path}: not a table, two columns have one name")
    if any(len(line) > len(columns) for line in lines):
        raise ConfigError(f"{path}: not a table, a row has more cells than there are columns")
    return [
        {key: number_or_text(cell) for key, cell in zip(columns, line, strict=False) if cell}
        for line in lines
        if line
    ]


def read_published(room: str, name: str = "published.csv") -> list[Row]:
    """The published results of a paper, from a CSV file of the package ``fwrl.bench.<room>``."""
    with as_file(files(f"fwrl.bench.{room}").joinpath(name)) as path:
        return read_rows(path)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Replace the file at once; a column is empty where a row has no such value."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    file = StringIO(newline="")
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_plain(path, file.getvalue().encode())


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Replace a JSON file at once; a number that is not finite becomes null."""
    text = json.dumps(without_infinities(document), indent=1)
    replace_plain(path, f"{text}\n".encode())


def number_or_text(cell: str) -> Value:
    """The number that a cell holds, or its text."""
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell


def machine() -> dict[str, Any]:
    """A description of the machine on which results are measured."""
    names = [line for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    return {
        "platform": system(),
        "processor": names[0].partition(":")[2].strip() if names else platform.processor(),
        "processors": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
