"""The part of Optuna's documented interface that `fwrl tune` uses, for machines that lack Optuna.

Values are drawn at random, and a study lives as long as this process. The pruner is the median's.
"""

import copy
import enum
import random
from statistics import median
from types import SimpleNamespace

STUDIES = {}


class TrialState(enum.Enum):
    RUNNING, COMPLETE, PRUNED, FAIL, WAITING = range(5)

    def is_finished(self):
        return self not in (TrialState.RUNNING, TrialState.WAITING)


class Distribution:
    def __init__(self, draw):
        self.draw = draw


def float_distribution(low, high, log=False, step=None):
    assert isinstance(low, float)
    assert step is None or not log
    return Distribution(lambda chance: chance.uniform(low, high))


def int_distribution(low, high, log=False, step=1):
    assert isinstance(low, int)
    return Distribution(lambda chance: chance.randrange(low, high + 1, step))


def categorical_distribution(choices):
    return Distribution(lambda chance: chance.choice(choices))


class Trial:
    def __init__(self, study, number, state, fixed, user_attrs):
        self.study, self.number, self.state, self.fixed = study, number, state, fixed
        self.user_attrs, self.params, self.intermediate_values = dict(user_attrs or {}), {}, {}
        self.value = None

    def set_user_attr(self, key, value):
        assert not self.state.is_finished()
        self.user_attrs[key] = value

    def report(self, value, step):
        assert isinstance(step, int)
        self.intermediate_values.setdefault(step, value)

    def should_prune(self):
        return self.study.pruner.prunes(self.study, self)


class MedianPruner:
    def __init__(self, n_startup_trials=5, n_warmup_steps=0):
        self.startup, self.warmup = n_startup_trials, n_warmup_steps

    def prunes(self, study, trial):
        step = max(trial.intermediate_values)
        complete = [each for each in study.all if each.state is TrialState.COMPLETE]
        others = [t.intermediate_values[step] for t in complete if step in t.intermediate_values]
        if len(complete) < max(self.startup, 1) or step < self.warmup or not others:
            return False
        return max(trial.intermediate_values.values()) < median(others)


class NopPruner:
    def prunes(self, study, trial):
        return False


class Study:
    def __init__(self, study_name, sampler, pruner):
        self.study_name, self.sampler, self.pruner = study_name, sampler, pruner
        self.all, self.user_attrs = [], {}

    @property
    def trials(self):
        return self.get_trials()

    def get_trials(self, deepcopy=True):
        return [copy.copy(trial) for trial in self.all] if deepcopy else self.all

    def set_user_attr(self, key, value):
        self.user_attrs[key] = value

    def ask(self, distributions):
        waiting = [each for each in self.all if each.state is TrialState.WAITING]
        trial = waiting[0] if waiting else self._add(TrialState.RUNNING, {}, {})
        trial.state = TrialState.RUNNING
        for name, distribution in distributions.items():
            drawn = distribution.draw(self.sampler.chance)
            trial.params[name] = trial.fixed.get(name, drawn)
        return trial

    def enqueue_trial(self, params, user_attrs=None):
        self._add(TrialState.WAITING, params, user_attrs)

    def tell(self, trial, values=None, state=None):
        found = self.all[trial]
        assert not found.state.is_finished()
        assert (values is None) == (state is not None)
        found.state, found.value = state or TrialState.COMPLETE, values

    def _add(self, state, fixed, user_attrs):
        self.all.append(Trial(self, len(self.all), state, fixed, user_attrs))
        return self.all[-1]


def create_study(study_name, storage, sampler, pruner, direction, load_if_exists):
    assert direction == "maximize"
    assert load_if_exists
    study = STUDIES.setdefault((storage, study_name), Study(study_name, sampler, pruner))
    study.pruner = pruner
    return study


storages = SimpleNamespace(
    JournalStorage=lambda backend: backend,
    journal=SimpleNamespace(JournalFileBackend=lambda path: path),
)
samplers = SimpleNamespace(
    TPESampler=lambda seed, constant_liar: SimpleNamespace(chance=random.Random(seed))
)
pruners = SimpleNamespace(MedianPruner=MedianPruner, NopPruner=NopPruner)
distributions = SimpleNamespace(
    FloatDistribution=float_distribution,
    IntDistribution=int_distribution,
    CategoricalDistribution=categorical_distribution,
)
trial = SimpleNamespace(TrialState=TrialState)
logging = SimpleNamespace(set_verbosity=lambda level: None, WARNING=30)
