"""``fwrl tune``: searches configurations; trials are ordinary runs, and hopeless ones end early."""

import time
from collections.abc import Sequence
from functools import partial
from json import JSONDecodeError
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from rich.console import Console

from fwrl.bench import plot
from fwrl.bench.benchmark import Row
from fwrl.cli.bench import PointReport
from fwrl.cli.tune.results import TRIALS, write_results
from fwrl.cli.tune.settings import TuningConfig, load_tuning, trial_config
from fwrl.cli.tune.study import FOLDER, Study, optuna
from fwrl.config import ConfigError
from fwrl.run.config import RunConfig
from fwrl.run.directory import claimed, named_directory, open_directory, staying
from fwrl.run.exit_codes import FAILED, FINISHED, STOPPED
from fwrl.run.jobs import (
    INTERVAL,
    OUTPUT,
    Children,
    Ended,
    failure,
    jobs_at_once,
    prepare_directory,
    train_words,
)
from fwrl.run.modules import import_modules
from fwrl.run.output import INTERRUPTIONS
from fwrl.run.process import Clock
from fwrl.run.progress import say
from fwrl.run.signals import stop_signals
from fwrl.run.table import read_metrics, steps_so_far
from fwrl.run.yaml_files import find_config

# Seconds between two looks into the logs of the trials.
LOOK = 1.0


class Running(NamedTuple):
    """A trial whose process runs."""

    trial: Any
    """Optuna's object."""
    directory: Path
    configs: Sequence[RunConfig]
    """One for each seed."""


class Evaluation(NamedTuple):
    """The value of a trial at an evaluation."""

    step: int
    """Environment steps of all its trainings, rounded down to a multiple of ``every_steps``."""
    value: float


def run_tuning(
    file: Path,
    overrides: Sequence[str],
    storage: str | None,
    out: Path | None,
    jobs: int | None,
    fresh: bool,
    imports: Sequence[str],
    console: Console,
) -> int:
    """Run trials until there are enough, write and draw; returns the exit code.

    Raises:
        ConfigError: If the search is impossible.
    """
    optuna()
    import_modules(imports)
    tuning = load_tuning(file, overrides)
    name = find_config(file).stem
    out = out or named_directory(["tune", name])
    with claimed(out, fresh), staying(out):
        open_directory(out, tuning, {"trials"}, "choose another --out")
        study = Study(tuning, name, storage, out, partial(say, console))
        search = Search(tuning, study, out, imports)
        example = trial_config(tuning, {}, tuning.seeds[0], "config")
        try:
            stopped = search.run(jobs_at_once(jobs, [example]), console)
        # a server that no longer answers, a journal that another machine has torn
        except (study.optuna.exceptions.OptunaError, JSONDecodeError) as error:
            raise ConfigError(
                f"the storage of the study fails: {error}; the same command goes on"
            ) from None
        trials = study.trials()
        with plot.rows_of(out / TRIALS):
            files = write_results(tuning, trials, out)
    for path in files:
        say(console, str(path))
    if stopped:
        console.print(f"stopped after {len(trials)} trials; the same command continues")
        return STOPPED
    return FINISHED if any(trial.state.name == "COMPLETE" for trial in trials) else FAILED


class Search:
    """Runs the trials of a study in processes."""

    def __init__(
        self, tuning: TuningConfig, study: Study, out: Path, imports: Sequence[str]
    ) -> None:
        self.tuning, self.study, self.out, self.imports = tuning, study, out, imports
        self.running: dict[str, Running] = {}
        self.pruned: set[str] = set()
        self.reported: dict[str, int] = {}

    def run(self, jobs: int, console: Console) -> bool:
        """Run trials until there are enough; returns whether it was stopped before."""
        finished = sum(trial.state.is_finished() for trial in self.study.trials())
        report = PointReport(console, self.tuning.trials, finished)
        clock = Clock(LOOK)
        stopped = False
        try:
            with stop_signals() as received, Children() as children:
                while not received:
                    while len(children.running) < jobs and self._are_missing():
                        self._start(children, report)
                    if not children.running:
                        break
                    for ended in children.ended():
                        stopped |= self._conclude(ended, report)
                    if clock.due():
                        self._look(children, report)
                    if stopped:
                        break
                    time.sleep(INTERVAL)
                stopped |= bool(received)
        except INTERRUPTIONS:
            stopped = True
        finally:
            # trials that were still running have saved by now
            for name, running in self.running.items():
                give_back = self.study.prune if name in self.pruned else self.study.set_back
                give_back(running.trial)
            report.close()
        return stopped

    def _are_missing(self) -> bool:
        return len(self.study.trials()) < self.tuning.trials

    def _start(self, children: Children, report: PointReport) -> None:
        trial = self.study.ask()
        name = trial.user_attrs[FOLDER]
        directory = self.out / "trials" / name
        try:
            configs = [
                trial_config(self.tuning, trial.params, seed, f"trial {trial.number}")
                for seed in self.tuning.seeds
            ]
            for config in configs:
                prepare_directory(directory / str(config.seed), config)
        except ConfigError as error:
            self.study.fail(trial, str(error))
            report.finish({"trial": name}, [{"trial": name, "failed": str(error)}])
            return
        self.running[name] = Running(trial, directory, configs)
        words = [train_words(directory / str(seed), self.imports) for seed in self.tuning.seeds]
        children.start(name, words, directory, configs[0].num_threads)

    def _look(self, children: Children, report: PointReport) -> None:
        """Report new evaluations, and stop hopeless trials."""
        total = self.tuning.total_steps * len(self.tuning.seeds)
        for name in set(children.running) - self.pruned:
            running = self.running[name]
            if self._report_evaluations(name):
                self.pruned.add(name)
                children.stop([name])
            runs = [running.directory / str(seed) for seed in self.tuning.seeds]
            report.show({"trial": name}, sum(map(steps_so_far, runs)), total, "")

    def _report_evaluations(self, name: str) -> bool:
        """Report the new evaluations of a trial; returns whether it is to end."""
        running = self.running[name]
        for step, value in evaluations(self.tuning, running):
            if step > self.reported.get(name, 0):
                self.reported[name] = step
                if self.study.report(running.trial, step, value):
                    return True
        return False

    def _conclude(self, ended: Ended, report: PointReport) -> bool:
        """Report how a trial has ended; returns whether somebody else has stopped it."""
        name = ended.name
        running = self.running[name]
        if ended.was_stopped and name not in self.pruned:
            return True
        if name not in self.pruned:
            # the trial has reached its end: it is too late to prune it
            self._report_evaluations(name)
        del self.running[name]
        found = evaluations(self.tuning, running)
        point: Row = {"trial": name}
        if name in self.pruned:
            self.study.prune(running.trial)
            report.finish(point, [{**point, "pruned at": found[-1].value}])
        elif ended.code == FINISHED and found:
            self.study.complete(running.trial, found[-1].value)
            report.finish(point, [{**point, self.tuning.metric: found[-1].value}])
        else:
            # each of its evaluations was given up, as its output says
            silent = f"no evaluation has ended; see {running.directory / OUTPUT}"
            reason = silent if ended.code == FINISHED else failure(running.directory, ended)
            self.study.fail(running.trial, reason)
            report.finish(point, [{**point, "failed": reason}])
        return False


def evaluations(tuning: TuningConfig, running: Running) -> list[Evaluation]:
    """The values of a trial at its evaluations: means over its trainings so far."""
    found: list[Evaluation] = []
    before: list[float] = []
    for i, config in enumerate(running.configs):
        table = read_metrics(running.directory / str(config.seed), [tuning.metric])
        every = config.evaluation.every_steps
        for step, value in table.tolist():
            # trials with rollouts of different lengths are compared at the same steps
            rounded = (
                int(step) // every * every if step < tuning.total_steps else tuning.total_steps
            )
            found.append(Evaluation(i * tuning.total_steps + rounded, mean([*before, value])))
        if not len(table) or table[-1, 0] < tuning.total_steps:
            break
        before.append(float(table[-1, 1]))
    return found
