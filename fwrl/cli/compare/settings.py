"""The settings of a comparison: tasks, the columns of the table, seeds, and the score."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from fwrl.config import Config, validate
from fwrl.run.config import RunConfig, base_values, variant
from fwrl.run.directory import named_directory
from fwrl.run.yaml_files import apply_overrides, find_config, read_yaml

Score = Literal["eval/mean_reward", "eval/iqm", "eval/success_rate", "mmer"]
# The batch of one iteration in the published comparison (Morad et al. 2023).
POPGYM_EPOCH = 65_536


class TaskConfig(Config):
    """One row of the table."""

    config: str | dict[str, Any]
    """A configuration file, as ``fwrl train`` takes it, or its content."""
    overrides: tuple[str, ...] = ()
    """``KEY=VALUE`` overrides for all columns."""
    range: tuple[float, float] | None = None
    """The scores that count as 0 and 1 when tasks are averaged, where intervals end in figures;
    None: the lowest and the highest score of any run of this task, and no end."""
    published: dict[str, float] = Field(default_factory=dict)
    """Published scores, by name: further columns of the table, and marks in ``tasks.png``."""
    chance: float | None = None
    """The expected score of guessing: a dotted line in the figures."""

    @field_validator("range")
    @classmethod
    def _has_a_length(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] >= value[1]:
            raise ValueError(f"range is {value}; the first should be less than the second")
        return value


class ComparisonConfig(Config):
    """A table of tasks and memories, or of any other overrides."""

    tasks: dict[str, TaskConfig] = Field(min_length=1)
    """The rows of the table, by name."""
    columns: dict[str, tuple[str, ...]] = Field(min_length=1)
    """The columns of the table: ``KEY=VALUE`` overrides, by name, applied after a task's own."""
    seeds: tuple[NonNegativeInt, ...] = Field(default=(0, 1, 2), min_length=1)
    """The seeds with which every column is trained on every task."""
    total_steps: PositiveInt | None = None
    """Environment steps of every run; None: those of each task's configuration."""
    score: Score = "eval/mean_reward"
    """The score of a run: a metric of the final evaluation, or ``mmer``, the highest mean return of
    the training episodes of one epoch (Morad et al. 2023)."""
    episodes: PositiveInt = 100
    """Episodes of the final evaluation."""
    evaluation_seed: NonNegativeInt = 1_000_000
    """The seed of the final evaluation, whose episodes differ from evaluations during training."""
    checkpoint: Literal["last", "best"] = "last"
    """The checkpoint of the final evaluation."""
    epoch_steps: PositiveInt = POPGYM_EPOCH
    """Environment steps of an epoch in ``mmer``."""
    transfer: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Other environments in which trained policies are evaluated too: ``env.KEY=VALUE`` overrides,
    by name."""
    transfer_label: str = "environment"
    """The heading of the names in ``transfer``, such as "squares in the corridor"."""
    published_label: str = "published"
    """The label of the scores in ``published``, such as "published (MMER, 15 million steps)"."""

    @property
    def score_in_words(self) -> str:
        """The score's name in figures and tables."""
        words = {
            "eval/mean_reward": "mean return",
            "eval/iqm": "interquartile mean of the returns",
            "eval/success_rate": "share of successful episodes",
            "mmer": "highest mean return of an epoch",
        }
        return words[self.score]

    @model_validator(mode="after")
    def _names_make_directories(self) -> "ComparisonConfig":
        for kind, names in (("tasks", self.tasks), ("columns", self.columns)):
            folders: dict[str, str] = {}
            for name in names:
                other = folders.setdefault(folder_name(name).lower(), name)
                if not name.strip(" ."):
                    raise ValueError(f"{kind} has the name {name!r}; it should have letters")
                if other != name:
                    raise ValueError(
                        f"{kind} has {other!r} and {name!r}, of which one directory would be made; "
                        "choose names that differ in letters or digits"
                    )
        if self.transfer and self.score == "mmer":
            raise ValueError(
                "score is 'mmer', which is of training episodes, and there is a transfer; "
                "choose eval/mean_reward"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {list(self.seeds)}; each should stand there once")
        return self


class Run(NamedTuple):
    """One training of a comparison."""

    task: str
    column: str
    seed: int
    directory: Path
    config: RunConfig

    @property
    def name(self) -> str:
        """The name of its process."""
        return f"{self.task}, {self.column}, seed {self.seed}"

    @property
    def point(self) -> dict[str, str | int | float]:
        """The fields that identify its row of results.csv."""
        return {"task": self.task, "column": self.column, "seed": self.seed}


def load_comparison(file: Path, overrides: Sequence[str]) -> ComparisonConfig:
    """The comparison in a file, with ``key=value`` overrides.

    Raises:
        ConfigError: One line that says where, what is wrong and what would be right.
    """
    values = read_yaml(find_config(file))
    apply_overrides(values, overrides)
    return validate(ComparisonConfig, values)


def folder_name(name: str) -> str:
    """A name as the name of a directory."""
    return named_directory([name]).name


def runs_of(comparison: ComparisonConfig, out: Path) -> list[Run]:
    """All runs; one seed of all tasks and columns comes before the next seed.

    Raises:
        ConfigError: If overrides do not fit a task.
    """
    steps = {} if comparison.total_steps is None else {"total_steps": comparison.total_steps}
    bases = {name: base_values(task.config) | steps for name, task in comparison.tasks.items()}
    runs: list[Run] = []
    for seed, task, column in product(comparison.seeds, comparison.tasks, comparison.columns):
        overrides = [comparison.tasks[task].overrides, comparison.columns[column]]
        config = variant(f"{task}, {column}", bases[task], overrides, seed)
        directory = out / "runs" / folder_name(task) / folder_name(column) / str(seed)
        runs.append(Run(task, column, seed, directory, config))
    return runs
