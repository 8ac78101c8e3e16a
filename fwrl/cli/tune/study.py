"""The study: the trials in Optuna (Akiba et al. 2019). No other module uses Optuna.

A stopped trial is reported as failed, and put into the queue again with the folder of its runs:
the next worker that asks for a trial continues it. Of trials with one folder the last one counts.
"""

import importlib
import json
import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fwrl.cli.tune.journal import repair_journal
from fwrl.cli.tune.settings import Dimension, TuningConfig
from fwrl.config import ConfigError, OneLineError
from fwrl.files.plain_files import make_folder

# Attributes of trials and studies.
FOLDER, HOME, SETTINGS, REASON = "folder", "home", "settings", "reason"
# The storage in a directory of results.
JOURNAL = "study.journal"
FOLDER_NAME = re.compile(r"[0-9]{4,9}")


def optuna() -> Any:
    """The Optuna library.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        library: Any = importlib.import_module("optuna")
    except ImportError:
        raise ConfigError("tune needs the package optuna; pip install 'fwrl[tune]'") from None
    library.logging.set_verbosity(library.logging.WARNING)
    return library


class Study:
    """The trials of a search, in a storage that other processes and machines may share."""

    def __init__(
        self,
        tuning: TuningConfig,
        name: str,
        storage: str | None,
        out: Path,
        say: Callable[[str], None],
    ) -> None:
        """Open the study, or make it.

        Args:
            tuning: The settings of the search.
            name: The study's name in its storage.
            storage: A URL as Optuna takes it, or the path of a journal file; None: one in ``out``.
            out: The directory of the runs, which belongs to this process alone.
            say: Called with a line if a damaged journal was repaired.

        Raises:
            ConfigError: If Optuna is missing, the storage cannot be opened, or it holds another
                study of this name.
        """
        self.optuna = optuna()
        self.tuning, self.home = tuning, str(out.resolve())
        if storage is None:
            # nobody else works in this directory: the lock is left by a process that was killed
            with suppress(OSError):
                (out / f"{JOURNAL}.lock").unlink()
        self.distributions = {
            key: _distribution(self.optuna, each) for key, each in tuning.space.items()
        }
        with warnings.catch_warnings():
            # Optuna warns that some options are experimental
            warnings.simplefilter("ignore")
            try:
                self.study = self.optuna.create_study(
                    study_name=name,
                    storage=_storage(self.optuna, storage or str(out / JOURNAL), say),
                    sampler=None,
                    pruner=_pruner(self.optuna, tuning),
                    direction="maximize",
                    load_if_exists=True,
                )
            except OneLineError:
                raise
            # a missing driver, a server that does not answer, a wrong URL
            except Exception as error:
                where = f"--storage is {storage!r}; it" if storage else str(out / JOURNAL)
                raise ConfigError(f"{where} cannot be opened: {error}") from None
            # the same seed would repeat the suggestions made before a stop
            seed = None if storage else tuning.sampler_seed + len(self.study.trials)
            self.study.sampler = self.optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        self._check_settings()
        self._queue_killed_trials()

    def _check_settings(self) -> None:
        settings = json.dumps(self.tuning.model_dump(mode="json", exclude={"trials"}))
        there = self.study.user_attrs.get(SETTINGS, settings)
        if there != settings:
            raise ConfigError(
                f"the study {self.study.study_name!r} has another space or other settings in its "
                "storage; choose another storage, or a file of another name"
            )
        self.study.set_user_attr(SETTINGS, settings)

    def _queue_killed_trials(self) -> None:
        for trial in self.study.trials:
            is_ours = trial.user_attrs.get(HOME) == self.home and folder_of(trial) is not None
            if trial.state.name == "RUNNING" and is_ours:
                self.set_back(trial)

    def ask(self) -> Any:
        """The next trial: a stopped one, or a new one."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = self.study.ask(self.distributions)
        trial.set_user_attr(FOLDER, folder_of(trial) or f"{trial.number:04d}")
        trial.set_user_attr(HOME, self.home)
        return trial

    def report(self, trial: Any, step: int, value: float) -> bool:
        """Report an evaluation; returns whether the trial is to end."""
        trial.report(value, step)
        return bool(trial.should_prune())

    def complete(self, trial: Any, value: float) -> None:
        """Report that the trial has finished."""
        self.study.tell(trial.number, value)

    def prune(self, trial: Any) -> None:
        """Report that the trial has ended early, as ``report`` asked."""
        self.study.tell(trial.number, state=self.optuna.trial.TrialState.PRUNED)

    def fail(self, trial: Any, reason: str) -> None:
        """Report that the trial is impossible or has failed; it is not tried again."""
        trial.set_user_attr(REASON, reason)
        self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)

    def set_back(self, trial: Any) -> None:
        """Report that the trial was stopped, and queue it to be continued."""
        self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
        attributes = {FOLDER: trial.user_attrs[FOLDER]}
        self.study.enqueue_trial(trial.params, user_attrs=attributes)

    def trials(self) -> Sequence[Any]:
        """Optuna's trials that have begun and are not queued again, in order.

        Raises:
            ConfigError: If one of them names a folder elsewhere.
        """
        last: dict[str, Any] = {}
        for trial in self.study.get_trials(deepcopy=False):
            if (folder := folder_of(trial)) is not None:
                last[folder] = trial
        begun = [trial for trial in last.values() if trial.state.name != "WAITING"]
        return sorted(begun, key=lambda trial: trial.number)


def folder_of(trial: Any) -> str | None:
    """The name of a trial's folder; None if it has not begun.

    Raises:
        ConfigError: If it is not one that ``ask`` gives: the storage may be a stranger's.
    """
    name = trial.user_attrs.get(FOLDER)
    if name is not None and not (isinstance(name, str) and FOLDER_NAME.fullmatch(name)):
        raise ConfigError(
            f"trial {trial.number} of the study names the folder {name!r}; "
            "it should be a number such as '0007': choose another storage"
        )
    return name


def _storage(optuna: Any, storage: str, say: Callable[[str], None]) -> Any:
    if "://" in storage:
        return storage
    make_folder(Path(storage).parent)
    lock = optuna.storages.journal.JournalFileSymlinkLock(storage)
    repair_journal(Path(storage), lock, say)
    backend = optuna.storages.journal.JournalFileBackend(storage, lock)
    return optuna.storages.JournalStorage(backend)


def _pruner(optuna: Any, tuning: TuningConfig) -> Any:
    chosen = tuning.pruner
    match chosen.kind:
        case "median":
            return optuna.pruners.MedianPruner(chosen.startup_trials, chosen.warmup_steps)
        case "hyperband":
            total = tuning.total_steps * len(tuning.seeds)
            return optuna.pruners.HyperbandPruner(
                min_resource=max(total // 27, 1),
                max_resource=total,
                reduction_factor=int(chosen.reduction),
            )
        case "none":
            return optuna.pruners.NopPruner()


def _distribution(optuna: Any, dimension: Dimension) -> Any:
    if dimension.choices is not None:
        return optuna.distributions.CategoricalDistribution(dimension.choices)
    low, high, step, log = dimension.low, dimension.high, dimension.step, dimension.log
    if dimension.is_whole:
        return optuna.distributions.IntDistribution(low, high, log=log, step=step or 1)
    ends = [float(end) for end in (low, high) if end is not None]
    return optuna.distributions.FloatDistribution(*ends, log=log, step=step)
