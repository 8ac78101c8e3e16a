"""The settings of the speed benchmark: the groups of rows, and their sizes."""

from typing import ClassVar, Literal, get_args

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from fwrl.bench.benchmark import Settings
from fwrl.cores.fast_weight import FastWeightConfig

Group = Literal[
    "training",
    "solve",
    "update",
    "cores",
    "layer",
    "length",
    "acting",
    "kernels",
    "memory",
    "throughput",
    "atari",
]
GROUPS: tuple[Group, ...] = get_args(Group)
# What is measured, where nothing else is said.
DELTA_NET = FastWeightConfig(update_rule="delta")
# The tasks of the group solve, by the names of our configurations.
SolveTask = Literal["quickstart", "repeat_previous_easy", "repeat_previous_medium"]
# Streams, times, heads, and the size of a key and a value.
Shape = tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]


class SpeedSettings(Settings):
    """The defaults are sizes usual in reinforcement learning; a group is a part of the table."""

    axes: ClassVar[tuple[str, ...]] = (
        "groups",
        "training_threads",
        "solve_tasks",
        "seeds",
    )

    groups: tuple[Group, ...] = GROUPS
    """Parts of the table to measure."""
    repeats: PositiveInt = 5
    """Number of rounds; in each round every run is timed once."""
    shortest: NonNegativeFloat = 0.02
    """Shortest measurement in seconds; a faster run is repeated in it."""
    episode: PositiveInt = 50
    """Mean number of time steps between two starts in the sequences."""

    training_threads: tuple[PositiveInt, ...] = (1, 2)
    """Threads of PyTorch in the group training; other groups use num_threads."""
    training_envs: tuple[PositiveInt, ...] = (16, 64)
    """Numbers of environments that step together, in training."""
    num_steps: PositiveInt = 128
    """Steps of a rollout, in training."""
    epochs: PositiveInt = 4
    """Passes over a rollout, in training."""
    minibatches: PositiveInt = 4
    """Minibatches in each pass, in training."""
    width: PositiveInt = 128
    """Width of policies, of all cores, and of the layers in acting."""
    solve_tasks: tuple[SolveTask, ...] = get_args(SolveTask)
    """Tasks to solve."""
    solved: float = 0.95
    """Evaluated return that solves a task."""
    solve_budget: PositiveFloat = 1.0
    """Steps that a trainer may take, in those of our configuration for the task."""
    solve_every: PositiveInt = 20_000
    """Steps from one evaluation to the next; what they take is not counted."""
    solve_episodes: PositiveInt = 100
    """Episodes of each evaluation."""
    update_lengths: tuple[PositiveInt, ...] = (128, 512, 1024, 2048, 4096)
    """Steps of a rollout, in update; the others are compared with the first."""
    update_envs: PositiveInt = 8
    """Environments of each rollout, in update."""

    core_batch: PositiveInt = 8
    """Number of sequences, in cores."""
    core_length: PositiveInt = 64
    """Time steps of these sequences."""
    heads: PositiveInt = 4
    """Heads of the delta layer."""
    head_sizes: tuple[PositiveInt, ...] = (32, 64)
    """Sizes of its keys and values; its width is heads times this size."""
    layer_batches: tuple[PositiveInt, ...] = (8, 32, 64)
    """Numbers of sequences; ``length`` and ``memory`` use the first."""
    layer_length: PositiveInt = 128
    """Time steps of these sequences."""
    lengths: tuple[PositiveInt, ...] = (128, 512, 2048)
    """Time steps, in length; the others are compared with the first."""
    acting_envs: tuple[PositiveInt, ...] = (1, 8, 32, 64, 256)
    """Numbers of streams that act together."""
    scans: tuple[Shape, ...] = ((16, 128, 4, 32), (8, 512, 4, 64))
    """Streams, time steps, heads and head size, in kernels and throughput."""
    product: PositiveInt = 1024
    """Rows and columns of the matrix product that stands for the machine's peak."""

    game: str = "pong"
    """Game of the group atari."""
    atari_envs: PositiveInt = Field(default=8)
    """Number of emulators."""

    @model_validator(mode="after")
    def _rows_for_every_minibatch(self) -> "SpeedSettings":
        fewest = min(*self.training_envs, self.update_envs, self.atari_envs)
        if self.minibatches > fewest:
            raise ValueError(
                f"minibatches is {self.minibatches}, more than the {fewest} environments that "
                f"there are at least; use at most that"
            )
        return self
