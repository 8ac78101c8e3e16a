"""What ``metrics.csv`` of a run says, also while it is being written."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from fwrl.cli.run_log import TABLE

STEP = "step"


def read_metrics(run: Path, names: Sequence[str]) -> Float[np.ndarray, "rows columns"]:
    """The steps and these metrics, where all of them were recorded; one row for each such step."""
    path = run / TABLE
    text = path.read_text() if path.is_file() else ""
    # what stands behind the last end of a line is not written yet
    lines = text[: text.rfind("\n") + 1].splitlines()
    rows = [
        [float(row[name]) for name in (STEP, *names)]
        for row in csv.DictReader(lines)
        if all(row.get(name) for name in (STEP, *names))
    ]
    return np.array(rows, float).reshape(len(rows), 1 + len(names))


def steps_so_far(run: Path) -> int:
    """The step of the last row that is on the disk; 0 where there is none."""
    steps = read_metrics(run, [])
    return int(steps[-1, 0]) if len(steps) else 0
