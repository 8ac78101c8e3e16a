"""The settings of a search: a base configuration, the space around it, and the budget."""

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from fwrl.config import Config, validate
from fwrl.run.config import RunConfig, base_values, variant
from fwrl.run.yaml_files import apply_overrides, find_config, read_yaml

Choice = bool | int | float | str | None
# The values of a trial, by key.
Parameters = Mapping[str, Choice]


class Dimension(Config):
    """The values of one key: ``choices``, or a range; two integers make a range of integers."""

    choices: tuple[Choice, ...] | None = None
    """A list of values, instead of a range."""
    low: int | float | None = None
    """The lowest value of a range, included."""
    high: int | float | None = None
    """The highest value of a range, included."""
    step: int | float | None = Field(default=None, gt=0)
    """The distance between values; None: 1 for integers, otherwise any value is possible."""
    log: bool = False
    """Whether values are spread evenly on a logarithmic scale."""

    @model_validator(mode="after")
    def _is_a_list_or_a_range(self) -> "Dimension":
        if self.choices is not None:
            others = [name for name in ("low", "high", "step") if getattr(self, name) is not None]
            if others or self.log:
                name = others[0] if others else "log"
                raise ValueError(f"choices and {name} are both given; leave one out")
            if not self.choices:
                raise ValueError("choices has no values; it should have one or more")
            return self
        if self.low is None or self.high is None:
            raise ValueError("says no values; it should have choices, or low and high")
        if self.low >= self.high:
            raise ValueError(f"low is {self.low}; it should be less than high, {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log is true; low should be above 0, and step left out")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether all values are integers."""
        return all(not isinstance(each, float) for each in (self.low, self.high, self.step))

    @property
    def example(self) -> Choice:
        """One of the values."""
        return self.low if self.choices is None else self.choices[0]


class PrunerConfig(Config):
    """The rule by which hopeless trials end early."""

    kind: Literal["median", "hyperband", "none"] = "median"
    """``median`` ends trials below the median of the others at the same step; ``hyperband`` is
    successive halving with several budgets (Li et al. 2018)."""
    startup_trials: NonNegativeInt = 5
    """``median``: finished trials before any is pruned."""
    warmup_steps: NonNegativeInt = 0
    """``median``: environment steps of a trial before it may be pruned."""
    reduction: float = Field(default=3.0, ge=2)
    """``hyperband``: one of so many trials goes on."""


class TuningConfig(Config):
    """A search over configurations."""

    config: str | dict[str, Any]
    """A configuration file, as ``fwrl train`` takes it, or its content."""
    overrides: tuple[str, ...] = ()
    """``KEY=VALUE`` overrides for all trials."""
    space: dict[str, Dimension] = Field(min_length=1)
    """The values to search, by dotted key."""
    trials: PositiveInt = 30
    """Trials of the whole study, including those of other machines."""
    seeds: tuple[NonNegativeInt, ...] = Field(default=(0,), min_length=1)
    """The seeds with which a trial trains in turn; its value is the mean."""
    total_steps: PositiveInt
    """Environment steps of each training."""
    metric: Literal["eval/mean_reward", "eval/iqm", "eval/success_rate"] = "eval/mean_reward"
    """The metric of the last evaluation during training that is maximised."""
    pruner: PrunerConfig = PrunerConfig()
    """When hopeless trials are stopped."""
    sampler_seed: NonNegativeInt = 0
    """The seed of the sampler that suggests values; not used with a shared storage."""

    @model_validator(mode="after")
    def _searches_what_differs(self) -> "TuningConfig":
        for key in self.space:
            if key.split(".")[0] in ("seed", "total_steps", "evaluation", "checkpoint"):
                raise ValueError(f"space has {key}, which makes no other agent; leave it out")
        return self


def load_tuning(file: Path, overrides: Sequence[str]) -> TuningConfig:
    """The search in a file, with ``key=value`` overrides.

    Checks that every key of the space exists for all kinds that may be chosen.

    Raises:
        ConfigError: One line that says where, what is wrong and what would be right.
    """
    values = read_yaml(find_config(file))
    apply_overrides(values, overrides)
    tuning = validate(TuningConfig, values)
    kinds = {key: each for key, each in tuning.space.items() if key.split(".")[-1] == "kind"}
    for chosen in product(*(each.choices or () for each in kinds.values())):
        for key, dimension in tuning.space.items():
            example = {key: dimension.example} | dict(zip(kinds, chosen, strict=True))
            trial_config(tuning, example, tuning.seeds[0], "space")
    return tuning


def trial_config(tuning: TuningConfig, parameters: Parameters, seed: int, name: str) -> RunConfig:
    """The configuration of a trial's run with one seed.

    Raises:
        ConfigError: Opening with ``name``, if these values are impossible.
    """
    base = base_values(tuning.config) | {"total_steps": tuning.total_steps}
    return variant(name, base, [tuning.overrides, as_overrides(parameters)], seed)


def best_values(tuning: TuningConfig, parameters: Parameters) -> dict[str, Any]:
    """The content of a configuration file for a trial; ``total_steps`` is the base's."""
    values = base_values(tuning.config)
    values.setdefault("total_steps", tuning.total_steps)
    for group in (tuning.overrides, as_overrides(parameters)):
        apply_overrides(values, group)
    return values


def as_overrides(parameters: Parameters) -> list[str]:
    """The values as ``KEY=VALUE`` overrides."""
    return [f"{key}={json.dumps(value)}" for key, value in parameters.items()]
