"""The files of a benchmark's results: results.csv, to which points are added, and results.json."""

import csv
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fwrl.bench.benchmark import Row, Value

TABLE, DOCUMENT = "results.csv", "results.json"


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV file; numbers are read as numbers, empty cells are left out."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            {key: number_or_text(cell) for key, cell in row.items() if cell}
            for row in csv.DictReader(file)
        ]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """All rows, or the file as it was; a column is empty where a row has nothing for it."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """A JSON file, whole or as it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    temporary.replace(path)


def number_or_text(cell: str) -> Value:
    """A cell as what it was before it was written."""
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell


def machine() -> dict[str, Any]:
    """What the results were measured on."""
    names = [line for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    return {
        "platform": platform.platform(),
        "processor": names[0].partition(":")[2].strip() if names else platform.processor(),
        "processors": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
