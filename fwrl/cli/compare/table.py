"""The files that a comparison writes: results.csv, results.json and table.md."""

from collections.abc import Mapping, Sequence
from itertools import chain, product
from math import isnan
from pathlib import Path
from statistics import mean, median

from agents.intervals import Estimate, bootstrap, improvement, student
from fwrl.bench.benchmark import Row
from fwrl.bench.results import DOCUMENT, TABLE, machine, write_document, write_rows
from fwrl.cli.compare.scores import complete_tasks, normalised, scores_of, transfer_estimates
from fwrl.cli.compare.settings import ComparisonConfig, Run
from fwrl.files.plain_files import replace_plain
from fwrl.run.directory import command_typed, versions

MARKDOWN = "table.md"
TRANSFER = "transfer.csv"
# Columns whose means differ by less than this share of a task's range are level there.
LEVEL = 0.01


def write_results(
    comparison: ComparisonConfig,
    missing: Sequence[Run],
    rows: Sequence[Row],
    transfer: Sequence[Row],
    out: Path,
) -> None:
    """Write the results so far.

    Args:
        comparison: The settings.
        missing: The runs that are not trained and evaluated to the end.
        rows: A row for each other run that has a score.
        transfer: A row for each evaluation in another environment.
        out: The directory.
    """
    write_rows(out / TABLE, rows)
    if transfer:
        write_rows(out / TRANSFER, transfer)
    write_document(
        out / DOCUMENT,
        {
            "command": command_typed(),
            "settings": comparison.model_dump(mode="json"),
            "versions": versions(),
            "machine": machine(),
            "missing": [run.point for run in missing],
            "rows": list(rows),
        },
    )
    text = markdown(comparison, rows, transfer, len(missing))
    replace_plain(out / MARKDOWN, text.encode())


def markdown(
    comparison: ComparisonConfig, rows: Sequence[Row], transfer: Sequence[Row], missing: int
) -> str:
    """The table with its explanation, scores in other environments, and parameters and speeds."""
    blocks = [_explanation(comparison, missing), _scores(comparison, rows)]
    if _complete(comparison, rows):
        blocks.append(_scale(comparison, rows))
        if len(comparison.columns) > 1:
            blocks.append(_pairs(comparison, rows))
    blocks += [
        _transfer(comparison, task, own)
        for task in comparison.tasks
        if (own := [row for row in transfer if row["task"] == task])
    ]
    return "\n\n".join([*blocks, _costs(comparison, rows)]) + "\n"


def _transfer(comparison: ComparisonConfig, task: str, rows: Sequence[Row]) -> str:
    found = transfer_estimates(comparison, rows)
    cells = [
        [name, *_cells({column: found.get((name, column)) for column in comparison.columns})]
        for name in comparison.transfer
    ]
    head = f"{task}, evaluated in other environments:"
    return f"{head}\n\n{_table([comparison.transfer_label, *comparison.columns], cells)}"


def _explanation(comparison: ComparisonConfig, missing: int) -> str:
    how = (
        f"training episodes; an epoch has {comparison.epoch_steps:,} steps (MMER)"
        if comparison.score == "mmer"
        else f"{comparison.episodes} episodes after training, {comparison.checkpoint} checkpoint"
    )
    seeds = len(comparison.seeds)
    cells = f"Mean over {seeds} seeds, and its 95 % interval by Student's distribution"
    lines = [
        f"Score: {comparison.score_in_words}; {how}.",
        f"{cells if seeds > 1 else 'One seed'}; the highest of each line is bold.",
    ]
    return "\n".join([*lines, *([f"{_count(missing, 'run')} missing."] if missing else [])])


def _scores(comparison: ComparisonConfig, rows: Sequence[Row]) -> str:
    published = list(dict.fromkeys(chain(*(each.published for each in comparison.tasks.values()))))
    cells: list[list[str]] = []
    for task, settings in comparison.tasks.items():
        scores = {column: scores_of(rows, task, column) for column in comparison.columns}
        estimates = {column: student(own) if own else None for column, own in scores.items()}
        others = [settings.published.get(name) for name in published]
        beside = ["" if score is None else f"{score:.3f}" for score in others]
        cells.append([task, *_cells(estimates), *beside])
    tasks = _complete(comparison, rows)
    if tasks:
        scaled = normalised(comparison, rows, tasks)
        together = {column: bootstrap(groups) for column, groups in scaled.items()}
        title = f"{_count(len(tasks), 'task')}, normalised"
        cells.append([title, *_cells(together), *("" for _ in published)])
    return _table(
        ["task", *comparison.columns, *(f"{name}, published" for name in published)], cells
    )


def _complete(comparison: ComparisonConfig, rows: Sequence[Row]) -> list[str]:
    """The tasks that are averaged: those without missing runs; none if there is but one task."""
    tasks = complete_tasks(comparison, rows)
    return tasks if len(comparison.tasks) > 1 else []


def _cells(estimates: Mapping[str, Estimate | None]) -> list[str]:
    highest = max((each.mean for each in estimates.values() if each), default=None)
    cells: list[str] = []
    for each in estimates.values():
        if each is None:
            cells.append("")
            continue
        cells.append(_estimate(each, "**{:.3f}**" if each.mean == highest else "{:.3f}"))
    return cells


def _estimate(estimate: Estimate, form: str) -> str:
    """The mean as ``form`` shows it, and the interval in plain figures, where there is one."""
    plain = form.replace("*", "")
    # a single seed has none
    ends = (
        ""
        if isnan(estimate.low)
        else f" [{plain.format(estimate.low)}, {plain.format(estimate.high)}]"
    )
    return form.format(estimate.mean) + ends


def _scale(comparison: ComparisonConfig, rows: Sequence[Row]) -> str:
    tasks = _complete(comparison, rows)
    ranges = {task: comparison.tasks[task].range for task in tasks}
    given = [f"{task} {pair[0]:g} to {pair[1]:g}" for task, pair in ranges.items() if pair]
    found = [task for task, pair in ranges.items() if pair is None]
    pairs = product(tasks, comparison.columns)
    several = any(len(scores_of(rows, task, column)) > 1 for task, column in pairs)
    interval = ", and its 95 % stratified bootstrap interval" if several else ""
    parts = [f"The tasks together: the interquartile mean{interval}."]
    if given:
        parts.append(f"Normalised by the given range: {', '.join(given)}.")
    if found:
        parts.append(f"From the lowest to the highest score of any run: {', '.join(found)}.")
    left = [task for task in comparison.tasks if task not in tasks]
    if left:
        parts.append(f"Not among the tasks together, because runs are missing: {', '.join(left)}.")
    return "\n".join(parts)


def _pairs(comparison: ComparisonConfig, rows: Sequence[Row]) -> str:
    """Each column against each other: tasks ahead and behind, and who probably scores higher."""
    scaled = normalised(comparison, rows, _complete(comparison, rows))
    lines: list[list[str]] = []
    for ours, groups in scaled.items():
        cells = ["" if theirs == ours else _pair(groups, scaled[theirs]) for theirs in scaled]
        lines.append([ours, *cells])
    text = (
        "Line against column: the number of these tasks in which its mean is higher : lower by "
        f"more than {LEVEL:g} of the range;\nthen the probability that a run of it scores higher, "
        "in a task drawn at random (Agarwal et al. 2021)."
    )
    return f"{text}\n\n{_table(['', *scaled], lines)}"


def _pair(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> str:
    gaps = [mean(one) - mean(other) for one, other in zip(ours, theirs, strict=True)]
    ahead, behind = sum(gap > LEVEL for gap in gaps), sum(gap < -LEVEL for gap in gaps)
    return f"{ahead} : {behind}, {_estimate(improvement(ours, theirs), '{:.2f}')}"


def _costs(comparison: ComparisonConfig, rows: Sequence[Row]) -> str:
    lines: list[list[str]] = []
    for column in comparison.columns:
        own = [row for row in rows if row["column"] == column]
        if not own:
            continue
        parameters = sorted({int(row["parameters"]) for row in own})
        sizes = " to ".join(f"{size:,}" for size in dict.fromkeys((parameters[0], parameters[-1])))
        speeds = [float(row["steps_per_second"]) for row in own if "steps_per_second" in row]
        speed = f"{median(speeds):,.0f}" if speeds else ""
        lines.append([column, str(len(own)), sizes, speed])
    return _table(["column", "runs", "parameters", "median steps/s of training"], lines)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    # a bar inside a cell would end it
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])
