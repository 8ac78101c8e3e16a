"""``fwrl compare``: trains the missing runs of a comparison, then writes and draws all results."""

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

from agents.policy import RecurrentPolicy
from envs import EnvConfigError, make_envs
from fwrl.bench import plot
from fwrl.bench.benchmark import Row
from fwrl.bench.results import TABLE
from fwrl.cli.bench import PointReport
from fwrl.cli.compare.figures import draw, draw_transfer
from fwrl.cli.compare.scores import final_evaluation, row_of, transfer_rows
from fwrl.cli.compare.settings import ComparisonConfig, Run, load_comparison, runs_of
from fwrl.cli.compare.table import MARKDOWN, write_results
from fwrl.config import ConfigError
from fwrl.run.build import prepare
from fwrl.run.diagnosis import of_several
from fwrl.run.directory import claimed, named_directory, open_directory, staying
from fwrl.run.evaluation import check_spaces, elsewhere
from fwrl.run.exit_codes import FAILED, FINISHED, STOPPED
from fwrl.run.jobs import (
    INTERVAL,
    Children,
    Ended,
    failure,
    jobs_at_once,
    prepare_directory,
    train_words,
)
from fwrl.run.modules import import_modules, import_words
from fwrl.run.output import INTERRUPTIONS
from fwrl.run.precision import settled
from fwrl.run.process import Clock
from fwrl.run.progress import say
from fwrl.run.signals import stop_signals
from fwrl.run.table import steps_so_far
from fwrl.run.yaml_files import find_config

# Everything may change: a directory may hold the runs of several versions of a comparison.
MAY_CHANGE = frozenset(ComparisonConfig.model_fields)
# Seconds between two looks into the logs of the runs.
LOOK = 1.0


def run_comparison(
    file: Path,
    overrides: Sequence[str],
    out: Path | None,
    jobs: int | None,
    fresh: bool,
    imports: Sequence[str],
    console: Console,
) -> int:
    """Train and evaluate the missing runs, write and draw; returns the exit code.

    Raises:
        ConfigError: If the comparison is impossible; nothing has been trained then.
    """
    import_modules(imports)
    comparison = load_comparison(file, overrides)
    changes = sorted(text for text in overrides if text.partition("=")[0] != "seeds")
    out = out or named_directory(["compare", find_config(file).stem, *changes])
    runs = runs_of(comparison, out)
    # building every policy finds mistakes before anything is written
    parameters = _parameters(comparison, runs)
    with claimed(out, fresh), staying(out):
        open_directory(out, comparison, MAY_CHANGE, "choose another --out")
        for run in runs:
            _prepare(run)
        failed, stopped = _train_missing(comparison, runs, jobs, imports, console)
        rows, unscored = _rows(comparison, runs, parameters)
        transfer = transfer_rows(comparison, runs)
        missing = [run for run in runs if _missing(comparison, run)]
        with plot.rows_of(out / TABLE):
            write_results(comparison, missing, rows, transfer, out)
            files = draw(comparison, runs, rows, out) if rows else []
            files += draw_transfer(comparison, transfer, out)
    told = [str(out / MARKDOWN), *map(str, files), *_left_out(comparison, unscored)]
    for line in [*told, *_diagnosed(comparison, runs)]:
        say(console, line)
    if stopped:
        say(console, f"stopped, {len(missing)} runs missing; the same command continues")
        return STOPPED
    return FAILED if failed or unscored else FINISHED


def _diagnosed(comparison: ComparisonConfig, runs: Sequence[Run]) -> list[str]:
    """A line for each column of which something can be said."""
    found = {
        column: of_several([run.directory for run in runs if run.column == column])
        for column in comparison.columns
    }
    return [f"{column}: {text}" for column, text in found.items() if text]


def _parameters(comparison: ComparisonConfig, runs: Sequence[Run]) -> dict[tuple[str, str], int]:
    """The number of parameters of each column in each task."""
    counts: dict[tuple[str, str], int] = {}
    for run in runs:
        if (run.task, run.column) in counts:
            continue
        setup = prepare(settled(run.config, run.directory))
        policy: RecurrentPolicy = setup.learner.policy
        counts[run.task, run.column] = sum(each.numel() for each in policy.parameters())
        setup.close()
        for overrides in comparison.transfer.values():
            _check_transfer(run, policy, overrides)
    return counts


def _check_transfer(run: Run, policy: RecurrentPolicy, overrides: Sequence[str]) -> None:
    try:
        config = elsewhere(run.config, overrides)
        with closing(make_envs(config.env, 1, evaluation=True)) as envs:
            check_spaces(policy, envs, overrides)
    except (ConfigError, EnvConfigError) as error:
        raise ConfigError(f"transfer of {run.task}: {error}") from None


def _prepare(run: Run) -> None:
    prepare_directory(run.directory, run.config)
    steps, ppo = steps_so_far(run.directory), run.config.ppo
    if steps >= run.config.total_steps + ppo.num_steps * run.config.env.num_envs:
        raise ConfigError(
            f"{run.directory}: has made {steps:,} steps, total_steps is {run.config.total_steps:,};"
            " ask for no fewer, or choose another --out"
        )


def _train_missing(
    comparison: ComparisonConfig,
    runs: Sequence[Run],
    jobs: int | None,
    imports: Sequence[str],
    console: Console,
) -> tuple[int, bool]:
    """Train and evaluate; returns how many runs have failed, and whether a signal has come."""
    waiting = [run for run in runs if _missing(comparison, run)]
    if not waiting:
        return 0, False
    at_once = jobs_at_once(jobs, [run.config for run in waiting])
    by_name = {run.name: run for run in waiting}
    failed, stopped, clock = 0, False, Clock(LOOK)
    report = PointReport(console, len(runs), len(runs) - len(waiting))
    try:
        with stop_signals() as received, Children() as children:
            while waiting or children.running:
                while waiting and len(children.running) < at_once:
                    run = waiting.pop(0)
                    words = [train_words(run.directory, imports)]
                    words += [
                        _evaluate_words(comparison, run, overrides, imports)
                        for overrides in _missing(comparison, run)
                    ]
                    children.start(run.name, words, run.directory, run.config.num_threads)
                for ended in children.ended():
                    stopped |= ended.was_stopped
                    failed += _report_end(by_name[ended.name], ended, comparison, report)
                if received or stopped:
                    stopped = True
                    say(console, f"{len(children.running)} runs save and stop")
                    break
                if clock.due():
                    for name in children.running:
                        _show(by_name[name], report)
                time.sleep(INTERVAL)
    except INTERRUPTIONS:
        stopped = True
    finally:
        report.close()
    return failed, stopped


def _missing(comparison: ComparisonConfig, run: Run) -> list[tuple[str, ...]]:
    """The environment overrides of each evaluation that a run lacks."""
    wanted = [(), *comparison.transfer.values()]
    return [each for each in wanted if final_evaluation(comparison, run, each) is None]


def _evaluate_words(
    comparison: ComparisonConfig, run: Run, overrides: Sequence[str], imports: Sequence[str]
) -> list[str]:
    return [
        "evaluate",
        str(run.directory),
        *overrides,
        f"--episodes={comparison.episodes}",
        f"--checkpoint={comparison.checkpoint}",
        f"--seed={comparison.evaluation_seed}",
        *([] if run.config.evaluation.deterministic else ["--stochastic"]),
        *import_words(imports),
    ]


def _report_end(run: Run, ended: Ended, comparison: ComparisonConfig, report: PointReport) -> int:
    """Report how a run has ended; returns 1 if it has failed, otherwise 0."""
    if ended.was_stopped:
        return 0
    final = final_evaluation(comparison, run)
    if ended.code == FINISHED and final is not None and not _missing(comparison, run):
        report.finish(run.point, [{**run.point, "return": final["return_mean"]}])
        return 0
    report.finish(run.point, [{**run.point, "failed": failure(run.directory, ended)}])
    return 1


def _show(run: Run, report: PointReport) -> None:
    report.show(run.point, steps_so_far(run.directory), run.config.total_steps, "")


def _rows(
    comparison: ComparisonConfig, runs: Sequence[Run], parameters: dict[tuple[str, str], int]
) -> tuple[list[Row], list[Run]]:
    """The rows of results.csv, and the runs whose environment does not report the score."""
    found: list[Row] = []
    unscored: list[Run] = []
    for run in runs:
        final = final_evaluation(comparison, run)
        if final is None:
            continue
        row = row_of(comparison, run, final, parameters[run.task, run.column])
        if row is None:
            unscored.append(run)
        else:
            found.append(row)
    return found, unscored


def _left_out(comparison: ComparisonConfig, unscored: Sequence[Run]) -> list[str]:
    tasks = dict.fromkeys(run.task for run in unscored)
    return [
        f"left out: score is {comparison.score!r}, which {task} does not say; "
        "choose eval/mean_reward"
        for task in tasks
    ]
