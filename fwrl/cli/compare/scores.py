"""The scores of the runs of a comparison, and their means and intervals."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float

from agents.intervals import Estimate, student
from agents.saving import find_checkpoint
from fwrl.bench.benchmark import Row
from fwrl.cli.compare.settings import ComparisonConfig, Run
from fwrl.files.checkpoint import CheckpointError, read_document
from fwrl.files.json_files import read_json
from fwrl.files.plain_files import MEBIBYTE, FileError
from fwrl.run.evaluation import steps_of
from fwrl.run.table import read_metrics

# Names in metrics.csv -> names in the JSON of `fwrl evaluate`.
EVALUATED = {
    "eval/mean_reward": "return_mean",
    "eval/iqm": "return_iqm",
    "eval/success_rate": "success_rate",
}
# All in that JSON that is read here.
NUMBERS = (*EVALUATED.values(), "length_mean")


def final_evaluation(
    comparison: ComparisonConfig, run: Run, overrides: Sequence[str] = ()
) -> Mapping[str, Any] | None:
    """The result of ``fwrl evaluate`` after training; None if the run is not there yet.

    Args:
        comparison: Says how its runs are evaluated.
        run: One of its runs.
        overrides: Changes to the environment.
    """
    try:
        folder = find_checkpoint(run.directory, comparison.checkpoint)
        last = find_checkpoint(run.directory, "last")
        if steps_of(read_document(last), last) < run.config.total_steps:
            return None
    except CheckpointError:
        return None
    wanted = (
        folder.name,
        comparison.episodes,
        comparison.evaluation_seed,
        run.config.evaluation.deterministic,
        list(overrides),
    )
    for file in sorted((run.directory / "evaluations").glob("*.json")):
        result = _read(file)
        played = [result.get(name) for name in ("episodes", "seed", "deterministic")]
        where = result.get("overrides", [])
        if (Path(str(result.get("checkpoint"))).name, *played, where) == wanted:
            return result
    return None


def _read(file: Path) -> Mapping[str, Any]:
    """The result in a file; nothing if it is none, which an evaluation then replaces."""
    try:
        result = read_json(file, MEBIBYTE)
    except (FileError, FileNotFoundError):
        return {}
    if not isinstance(result, dict):
        return {}
    # null is a number that is not finite
    numbers = [cast(dict[str, Any], result).get(name, "") for name in NUMBERS]
    return result if all(type(each) in (int, float, type(None)) for each in numbers) else {}


def row_of(
    comparison: ComparisonConfig, run: Run, final: Mapping[str, Any], parameters: int
) -> Row | None:
    """The row of results.csv of a run; None if its evaluation has no such score."""
    measured = {name: final[name] for name in ("return_mean", "return_iqm", "success_rate")}
    row: Row = run.point | {name: each for name, each in measured.items() if each is not None}
    evaluations = read_metrics(run.directory, ["eval/mean_reward"])
    # a full disk may lose rows of metrics.csv, but never the final evaluation
    if len(evaluations):
        row["best_evaluation"] = float(evaluations[:, 1].max())
    highest = highest_epoch_mean(
        read_metrics(run.directory, ["rollout/ep_rew_mean"]), comparison.epoch_steps
    )
    if highest is not None:
        row["mmer"] = highest
    for steps, seconds in read_metrics(run.directory, ["time/time_elapsed"])[-1:]:
        row |= {"steps": int(steps), "seconds": round(float(seconds), 3)}
        if seconds > 0:
            row["steps_per_second"] = round(float(steps / seconds), 1)
    row["parameters"] = parameters
    column = EVALUATED.get(comparison.score, comparison.score)
    return {**row, "score": row[column]} if column in row else None


def transfer_rows(comparison: ComparisonConfig, runs: Sequence[Run]) -> list[Row]:
    """The scores of trained policies in the other environments, as far as they are evaluated."""
    rows: list[Row] = []
    for run in runs:
        for name, overrides in comparison.transfer.items():
            found = final_evaluation(comparison, run, overrides)
            found = found or {}
            score, length = found.get(EVALUATED[comparison.score]), found.get("length_mean")
            if score is not None and length is not None:
                rows.append({**run.point, "transfer": name, "score": score, "length": length})
    return rows


def transfer_estimates(
    comparison: ComparisonConfig, rows: Sequence[Row]
) -> dict[tuple[str, str], Estimate]:
    """The estimates over all seeds by environment and column; ``rows`` belong to one task."""
    found: dict[tuple[str, str], Estimate] = {}
    for pair in product(comparison.transfer, comparison.columns):
        own = [float(row["score"]) for row in rows if (row["transfer"], row["column"]) == pair]
        if own:
            found[pair] = student(own)
    return found


def highest_epoch_mean(curve: Float[np.ndarray, "rows 2"], epoch_steps: int) -> float | None:
    """The highest mean return of the training episodes of one epoch (Morad et al. 2023).

    In each row ``rollout/ep_rew_mean`` is the mean over the last hundred episodes; its mean over
    the rows of an epoch stands for the mean over all episodes in it. An incomplete last epoch
    counts only if it is the first.

    Args:
        curve: Steps and ``rollout/ep_rew_mean``.
        epoch_steps: Environment steps of an epoch.
    """
    if not len(curve):
        return None
    steps, returns = curve.T
    # an epoch ends with the row that reaches its end
    epochs = np.ceil(steps / epoch_steps).astype(int)
    whole = epochs <= max(int(steps[-1] // epoch_steps), 1)
    return max(
        float(returns[epochs == epoch].mean()) for epoch in np.unique(epochs[whole]).tolist()
    )


def scores_of(rows: Sequence[Row], task: str, column: str) -> list[float]:
    """The scores of a column in a task, for all seeds so far."""
    return [float(row["score"]) for row in rows if (row["task"], row["column"]) == (task, column)]


def complete_tasks(comparison: ComparisonConfig, rows: Sequence[Row]) -> list[str]:
    """The tasks in which every column has equally many scores: only those are put together."""
    counts = {
        task: {len(scores_of(rows, task, column)) for column in comparison.columns}
        for task in comparison.tasks
    }
    return [task for task, count in counts.items() if len(count) == 1 and min(count) > 0]


def normalised(
    comparison: ComparisonConfig, rows: Sequence[Row], tasks: Sequence[str]
) -> dict[str, list[list[float]]]:
    """The scores of each column in each of the tasks, on the scale of its ``range``."""
    columns: dict[str, list[list[float]]] = {column: [] for column in comparison.columns}
    for task in tasks:
        own = {column: scores_of(rows, task, column) for column in columns}
        everything = [score for scores in own.values() for score in scores]
        low, high = comparison.tasks[task].range or (min(everything), max(everything))
        for column, scores in own.items():
            # where all are equal nobody is better
            columns[column].append([(score - low) / ((high - low) or 1) for score in scores])
    return columns
