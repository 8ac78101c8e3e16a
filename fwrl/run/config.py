"""The whole configuration of a run: a YAML file of differences from defaults, and overrides."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from agents.actions import ActionConfig
from agents.critic import CriticConfig
from agents.encoders import EncoderConfig
from agents.policy import PolicyConfig, RewardConfig
from agents.ppo import PPOConfig
from envs import EnvConfig
from fwrl.config import Config, ConfigError, validate, validate_stored
from fwrl.cores import CoresConfig
from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.run.yaml_files import apply_overrides, find_config, flat, read_config
from fwrl.stack import FittedStack, StackConfig


class EvaluationConfig(Config):
    """Evaluations during training, in environments of their own."""

    every_steps: int = Field(default=100_000, ge=1)
    """Environment steps from one evaluation to the next."""
    episodes: int = Field(default=20, ge=1)
    """Episodes of each evaluation."""
    num_envs: int = Field(default=10, ge=1)
    """Environments that an evaluation steps together."""
    deterministic: bool = True
    """Whether the most probable action is taken; otherwise one is sampled, as in training."""
    film_steps: int = Field(default=0, ge=0)
    """Steps of an evaluated episode that TensorBoard shows as a video, if the environment draws
    pictures; 0: none."""


class CheckpointConfig(Config):
    """Checkpoints, which are written at the start, at every evaluation and at the end."""

    keep: int = Field(default=3, ge=1)
    """Newest checkpoints that are kept, at least two; the best one is always kept."""
    every_minutes: float = Field(default=10.0, gt=0)
    """Minutes from one checkpoint to the next where no evaluation comes in between."""
    resume: Literal["exact", "fast"] = "exact"
    """How a run continues: ``exact`` goes on with the episodes that were under way, replaying them
    where necessary; ``fast`` opens new ones."""


class RunConfig(Config):
    """Everything that makes one run differ from another."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "total_timesteps": "total_steps",
        "timesteps": "total_steps",
        "n_envs": "env.num_envs",
        "num_envs": "env.num_envs",
        "env_id": "env.id",
        "algo": "ppo",
        "memory": "core",
    }

    env: EnvConfig
    """The environments to train on, of kind ``gymnasium`` unless ``kind`` says otherwise."""
    core: CoresConfig = FastWeightConfig()
    """The memory, of kind ``fast_weight`` unless ``kind`` says otherwise; or a list of memories,
    one for each layer."""
    stack: FittedStack = Field(default=StackConfig(), validate_default=True)
    """The layers around the memory."""
    encoder: EncoderConfig = EncoderConfig()
    """The encoder, which makes features of observations and of the last action and reward."""
    action: ActionConfig = ActionConfig()
    """How actions in a Box of real numbers are drawn."""
    reward: RewardConfig = RewardConfig()
    """How the learner scales rewards."""
    critic: CriticConfig = CriticConfig()
    """The critic: how values are learned."""
    ppo: PPOConfig = PPOConfig()
    """The algorithm: rollouts, updates and losses."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Evaluations during training."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When checkpoints are saved, how many are kept, and how a run continues."""
    total_steps: int = Field(ge=1)
    """Environment steps of the training, over all environments of all processes."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """The seed of parameters, environments and sampled actions."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """The precision of the matrix products in encoder and memory, for acting and learning alike;
    parameters, states, sums, losses and the optimiser are float32. ``auto`` measures at the start
    of a run whether bfloat16 is faster there; the run keeps what it chose."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device to train on; ``auto`` takes CUDA if it is available."""
    num_threads: int = Field(default=1, ge=1, le=2**10)
    """Threads of PyTorch on the CPU. Two make small recurrent networks 1.2 to 1.5 times as fast on
    idle cores, and much slower on busy ones."""

    @property
    def policy(self) -> PolicyConfig:
        """The part of the configuration that a checkpoint needs to build the policy again."""
        if self.precision == "auto":
            raise ConfigError("precision is 'auto'; a policy needs 'float32' or 'bfloat16'")
        return PolicyConfig(
            encoder=self.encoder,
            core=self.core,
            stack=self.stack,
            action=self.action,
            reward=self.reward,
            critic=self.critic,
            precision=self.precision,
        )

    @model_validator(mode="after")
    def _only_numbers_are_clipped(self) -> "RunConfig":
        if self.critic.head == "two_hot" and self.ppo.value_clip is not None:
            raise ValueError(
                f"ppo.value_clip is {self.ppo.value_clip}; critic.head 'two_hot' clips no values, "
                "it should be null"
            )
        return self

    @model_validator(mode="after")
    def _every_minibatch_has_a_row(self) -> "RunConfig":
        pieces = self.ppo.num_steps // (self.ppo.sequence_length or self.ppo.num_steps)
        rows = self.env.num_envs * pieces
        if self.ppo.minibatches > rows:
            raise ValueError(
                f"ppo.minibatches is {self.ppo.minibatches}; env.num_envs and ppo.sequence_length "
                f"make {rows} rows, it should be at most that"
            )
        return self


# Fields that may change when a run is continued.
MAY_CHANGE = frozenset({"total_steps", "evaluation", "checkpoint", "device", "num_threads"})


# Keys of a changed configuration that are told.
MOST_CHANGES = 5


def trained_with(config: RunConfig) -> dict[str, Any]:
    """The part of a configuration that decides what a training computes."""
    return config.model_dump(mode="json", exclude={*MAY_CHANGE})


def changes(saved: Any, config: RunConfig) -> list[str]:
    """The keys, in words, that differ from what ``trained_with`` gave; none if it is None."""
    if saved is None:
        return []
    try:
        before = validate_stored(RunConfig, config.model_dump(mode="json") | saved)
    except (ConfigError, TypeError):
        return ["its configuration cannot be read"]
    before, now = (flat(trained_with(each), lists=True) for each in (before, config))
    changed = [key for key in before | now if before.get(key) != now.get(key)]
    more = [f"{len(changed) - MOST_CHANGES} more keys"] if len(changed) > MOST_CHANGES else []
    told = changed[:MOST_CHANGES]
    return [f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in told] + more


def load_run_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration in a file, or of an environment's id, with ``key=value`` overrides.

    Raises:
        ConfigError: One line that says where, what is wrong and what would be right.
    """
    values = read_config(Path(path))
    apply_overrides(values, overrides)
    return validate(RunConfig, values)


def base_values(config: str | dict[str, Any]) -> dict[str, Any]:
    """The values in a configuration file, or a copy of those that stand in its place."""
    return (
        read_config(find_config(Path(config))) if isinstance(config, str) else copy.deepcopy(config)
    )


def variant(
    name: str, base: dict[str, Any], overrides: Sequence[Sequence[str]], seed: int
) -> RunConfig:
    """The configuration made of a base by the overrides of each group in turn.

    Raises:
        ConfigError: Opening with ``name``.
    """
    values = copy.deepcopy(base)
    try:
        for group in overrides:
            apply_overrides(values, group)
        return validate(RunConfig, values | {"seed": seed})
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
