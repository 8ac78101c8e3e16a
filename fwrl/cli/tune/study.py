"""The study: what Optuna (Akiba et al. 2019) knows of the trials. Nothing else here knows Optuna.

A trial that was stopped is told as failed, and put into the queue again with the folder of its
runs: whoever asks next continues it. Of trials with one folder, the last one counts.
"""

import importlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fwrl.cli.tune.settings import Dimension, TuningConfig
from fwrl.config import ConfigError

# Attributes that the study keeps.
FOLDER, HOME, SETTINGS, REASON = "folder", "home", "settings", "reason"
# Files without a scheme.
JOURNAL = "study.journal"


def optuna() -> Any:
    """The library.

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

    def __init__(self, tuning: TuningConfig, name: str, storage: str | None, out: Path) -> None:
        """Open the study, or make it.

        Args:
            tuning: What is searched.
            name: Of the study in its storage.
            storage: A URL as Optuna takes it, or the path of a journal file; None: one in ``out``.
            out: The directory of the runs, which belongs to this process alone.

        Raises:
            ConfigError: If Optuna is missing, the storage cannot be opened, or it holds another
                study of this name.
        """
        self.optuna = optuna()
        self.tuning, self.home = tuning, str(out.resolve())
        if storage is None:
            # nobody else works in this directory: who held it was killed, and it would be held on
            (out / f"{JOURNAL}.lock").unlink(missing_ok=True)
        self.distributions = {
            key: _distribution(self.optuna, each) for key, each in tuning.space.items()
        }
        with warnings.catch_warnings():
            # of options that may still change
            warnings.simplefilter("ignore")
            try:
                self.study = self.optuna.create_study(
                    study_name=name,
                    storage=_storage(self.optuna, storage or str(out / JOURNAL)),
                    sampler=None,
                    pruner=_pruner(self.optuna, tuning),
                    direction="maximize",
                    load_if_exists=True,
                )
            # a driver that is missing, a server that does not answer, a URL that is none
            except Exception as error:
                raise ConfigError(
                    f"--storage is {storage!r}; it cannot be opened: {error}"
                ) from error
            # the same seed would suggest again what was suggested before it was stopped
            seed = None if storage else tuning.sampler_seed + len(self.study.trials)
            self.study.sampler = self.optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        self._check_settings()
        self._take_back_what_was_killed()

    def _check_settings(self) -> None:
        settings = json.dumps(self.tuning.model_dump(mode="json", exclude={"trials"}))
        there = self.study.user_attrs.get(SETTINGS, settings)
        if there != settings:
            raise ConfigError(
                f"the study {self.study.study_name!r} has another space or other settings in its "
                "storage; choose another storage, or a file of another name"
            )
        self.study.set_user_attr(SETTINGS, settings)

    def _take_back_what_was_killed(self) -> None:
        for trial in self.study.trials:
            if trial.state.name == "RUNNING" and trial.user_attrs.get(HOME) == self.home:
                self.set_back(trial)

    def ask(self) -> Any:
        """The next trial: one that was stopped before, or a new one."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = self.study.ask(self.distributions)
        trial.set_user_attr(FOLDER, trial.user_attrs.get(FOLDER) or f"{trial.number:04d}")
        trial.set_user_attr(HOME, self.home)
        return trial

    def report(self, trial: Any, step: int, value: float) -> bool:
        """Tell an evaluation; whether the trial shall end."""
        trial.report(value, step)
        return bool(trial.should_prune())

    def complete(self, trial: Any, value: float) -> None:
        """The trial has come to its end."""
        self.study.tell(trial.number, value)

    def prune(self, trial: Any) -> None:
        """The trial has ended early, as ``report`` said."""
        self.study.tell(trial.number, state=self.optuna.trial.TrialState.PRUNED)

    def fail(self, trial: Any, reason: str) -> None:
        """There can be no such run, or it has failed; it is not tried again."""
        trial.set_user_attr(REASON, reason)
        self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)

    def set_back(self, trial: Any) -> None:
        """The trial was stopped, and is to be continued."""
        self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
        attributes = {FOLDER: trial.user_attrs[FOLDER]}
        self.study.enqueue_trial(trial.params, user_attrs=attributes)

    def trials(self) -> Sequence[Any]:
        """Those that were begun and not given back, in order, as Optuna has them."""
        last: dict[str, Any] = {}
        for trial in self.study.get_trials(deepcopy=False):
            if FOLDER in trial.user_attrs:
                last[trial.user_attrs[FOLDER]] = trial
        begun = [trial for trial in last.values() if trial.state.name != "WAITING"]
        return sorted(begun, key=lambda trial: trial.number)


def _storage(optuna: Any, storage: str) -> Any:
    if "://" in storage:
        return storage
    Path(storage).parent.mkdir(parents=True, exist_ok=True)
    backend = optuna.storages.journal.JournalFileBackend(storage)
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
