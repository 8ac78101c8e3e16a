"""``metrics.csv``: the table of a run, with a row for each iteration."""

import csv
import os
import re
from collections.abc import Sequence
from io import BufferedReader, StringIO
from pathlib import Path

import numpy as np
from jaxtyping import Float

from fwrl.files.plain_files import (
    MEBIBYTE,
    FileError,
    append_plain,
    check_target,
    open_plain,
    read_plain,
    set_aside,
)

TABLE, STEP = "metrics.csv", "step"
# Every metric of every version has such a name.
METRIC = re.compile(r"[a-z_]+/[a-z0-9_/.]+")
# In bytes; some hundred bytes are a row.
LARGEST_TABLE = 1024 * MEBIBYTE
# No row or heading has so many bytes.
LONGEST_ROW = 2**17


def columns_of(path: Path) -> list[str]:
    """The columns of a table, perhaps of a version with other metrics; none if it has no heading.

    Raises:
        FileError: If it is not a table, or no regular file.
    """
    try:
        with open_plain(path) as (file, _):
            heading = file.readline(LONGEST_ROW)
    except FileNotFoundError:
        return []
    columns = _columns(heading, path)
    # rows would be written into these alone
    for column in columns:
        if column != STEP and not METRIC.fullmatch(column):
            raise FileError(f"{path}: not a table of metrics, it has a column {column!r}")
    return columns


def _columns(heading: bytes, path: Path) -> list[str]:
    try:
        columns = next(csv.reader([heading.decode("utf-8")]), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"{path}: not a table of metrics ({error})") from None
    if columns and STEP not in columns:
        raise FileError(f"{path}: not a table of metrics, it has no column {STEP!r}")
    return columns


def cut_table(path: Path, size: int | None) -> str | None:
    """Cut a table behind the rows that a checkpoint counts on; returns what is wrong, in words.

    A row that is not whole is cut off too: the next one would be written behind its half. What is
    no table is kept under another name.

    Args:
        path: The table.
        size: The bytes that a checkpoint says it has; None if it says nothing.

    Raises:
        FileError: If it is a pipe, a device or a folder.
    """
    check_target(path)
    lost = size or 0
    try:
        with open_plain(path) as (file, there):
            kept = _whole_rows(file, there if size is None else min(there, size))
        # half a heading is not a table yet, and not anything else
        columns = columns_of(path) if kept or not _begins_as_ours(path) else []
    except FileNotFoundError:
        return f"{path.name} is missing, a new one begins" if lost else None
    except FileError as error:
        return f"{error}; it is now {set_aside(path).name}, and a new one begins"
    if kept < there:
        with append_plain(path) as file:
            file.truncate(kept)
    missing = lost - kept if columns else lost
    return f"{path.name} lacks {missing:,} bytes of its rows" if missing > 0 else None


def _begins_as_ours(path: Path) -> bool:
    with open_plain(path) as (file, _):
        return STEP.encode().startswith(file.read(len(STEP)))


def _whole_rows(file: BufferedReader, size: int) -> int:
    """The bytes, of the first ``size``, up to the end of the last whole row."""
    start = max(0, size - LONGEST_ROW)
    file.seek(start)
    return start + file.read(size - start).rfind(b"\n") + 1


def has_rows(path: Path) -> bool:
    """Whether a table has more than its heading.

    Raises:
        FileError: If it is no regular file.
    """
    try:
        with open_plain(path) as (file, _):
            file.readline()
            return bool(file.read(1))
    except FileNotFoundError:
        return False


def read_metrics(run: Path, names: Sequence[str]) -> Float[np.ndarray, "rows columns"]:
    """Steps and metrics, one row for each step at which all of these metrics were recorded.

    Raises:
        FileError: If the run's table is none, or has anything but numbers there.
    """
    return _read_together(run, [names])[0]


def read_table(run: Path) -> dict[str, Float[np.ndarray, " rows"]]:
    """All columns; NaN where a metric was not recorded. Raises as ``read_metrics`` does."""
    names = [name for name in columns_of(run / TABLE) if name != STEP]
    steps, *curves = _read_together(run, [[], *([name] for name in names)])
    table = {STEP: steps[:, 0]}
    for name, curve in zip(names, curves, strict=True):
        table[name] = np.full(len(steps), np.nan)
        table[name][np.searchsorted(steps[:, 0], curve[:, 0])] = curve[:, 1]
    return table


def read_curves(run: Path, names: Sequence[str]) -> dict[str, Float[np.ndarray, "rows 2"]]:
    """Steps and values of each metric, where it was recorded; raises as ``read_metrics`` does."""
    return dict(zip(names, _read_together(run, [[name] for name in names]), strict=True))


def _read_together(
    run: Path, groups: Sequence[Sequence[str]]
) -> list[Float[np.ndarray, "rows columns"]]:
    """For each group of metrics, steps and metrics where all of the group were recorded."""
    path = run / TABLE
    if not os.path.lexists(path):
        return [np.zeros((0, 1 + len(names))) for names in groups]
    data = read_plain(path, LARGEST_TABLE)
    _columns(data.partition(b"\n")[0], path)
    try:
        # the last line may not be written to its end
        text = data[: data.rfind(b"\n") + 1].decode("utf-8")
        rows = list(csv.DictReader(StringIO(text, newline="")))
        found = [
            [
                [float(row[name]) for name in (STEP, *names)]
                for row in rows
                if all(row.get(name) for name in (STEP, *names))
            ]
            for names in groups
        ]
    except (ValueError, csv.Error) as error:
        raise FileError(f"{path}: not a table of metrics ({error})") from None
    tables = [
        np.array(f, float).reshape(-1, 1 + len(g)) for f, g in zip(found, groups, strict=True)
    ]
    if not all(np.isfinite(table[:, 0]).all() for table in tables):
        raise FileError(f"{path}: not a table of metrics, a step is not finite")
    return tables


def steps_so_far(run: Path) -> int:
    """The step of the last row on the disk; 0 if there is none."""
    steps = read_metrics(run, [])
    return int(steps[-1, 0]) if len(steps) else 0
