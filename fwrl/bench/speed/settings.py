"""What is timed, and on what sizes."""

from typing import ClassVar, Literal, get_args

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from fwrl.bench.benchmark import Settings

Group = Literal[
    "training",
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
# Streams, times, heads, and the size of a key and a value.
Shape = tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]


class SpeedSettings(Settings):
    """The defaults are sizes of reinforcement learning; a group is a part of the table."""

    axes: ClassVar[tuple[str, ...]] = ("groups", "training_threads", "seeds")

    groups: tuple[Group, ...] = GROUPS
    """Which parts of the table are measured."""
    repeats: PositiveInt = 5
    """Rounds; in each everything that is compared runs once."""
    shortest: NonNegativeFloat = 0.02
    """Seconds of one measurement at least: what is faster runs several times in it."""
    episode: PositiveInt = 50
    """Mean times between two starts inside the sequences."""

    training_threads: tuple[PositiveInt, ...] = (1, 2)
    """Of PyTorch in the group training; the other groups take num_threads."""
    training_envs: tuple[PositiveInt, ...] = (16, 64)
    """Environments that are stepped together."""
    num_steps: PositiveInt = 128
    """Of a rollout, in training."""
    epochs: PositiveInt = 4
    """Passes over a rollout, in training."""
    minibatches: PositiveInt = 4
    """Of each pass, in training."""
    width: PositiveInt = 128
    """Of policies, of all cores, and of what acts."""
    update_lengths: tuple[PositiveInt, ...] = (128, 512, 1024, 2048, 4096)
    """Steps of a rollout, in update; the first is what the others are compared with."""
    update_envs: PositiveInt = 8
    """Environments of each rollout, in update, whatever its length."""

    core_batch: PositiveInt = 8
    """Sequences, where all cores are compared."""
    core_length: PositiveInt = 64
    """Times of them."""
    heads: PositiveInt = 4
    """Of the delta layer."""
    head_sizes: tuple[PositiveInt, ...] = (32, 64)
    """Of its keys and values; its width is the product with heads."""
    layer_batches: tuple[PositiveInt, ...] = (8, 32, 64)
    """Sequences; ``length`` and ``memory`` take the first number."""
    layer_length: PositiveInt = 128
    """Times of them."""
    lengths: tuple[PositiveInt, ...] = (128, 512, 2048)
    """Times, in length; the first is what the others are compared with."""
    acting_envs: tuple[PositiveInt, ...] = (1, 8, 32, 64, 256)
    """Streams that act together."""
    scans: tuple[Shape, ...] = ((16, 128, 4, 32), (8, 512, 4, 64))
    """Streams, times, heads and head size, in kernels and throughput."""
    product: PositiveInt = 1024
    """Rows and columns of the matrix product that stands for the machine's peak."""

    game: str = "pong"
    """Of the group atari."""
    atari_envs: PositiveInt = Field(default=8)
    """Emulators."""

    @model_validator(mode="after")
    def _rows_for_every_minibatch(self) -> "SpeedSettings":
        fewest = min(*self.training_envs, self.update_envs, self.atari_envs)
        if self.minibatches > fewest:
            raise ValueError(
                f"minibatches is {self.minibatches}, more than the {fewest} environments that "
                f"there are at least; use at most that"
            )
        return self
