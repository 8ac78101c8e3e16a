"""One run's whole configuration: a YAML file that says what differs, and overrides after it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import yaml
from pydantic import Field, model_validator

from agents.encoders import EncoderConfig
from agents.policy import PolicyConfig, RewardConfig
from agents.ppo import PPOConfig
from envs import EnvConfig
from fwrl.config import Config, ConfigError, validate
from fwrl.cores import CoreConfig
from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.stack import StackConfig


class EvaluationConfig(Config):
    """Evaluations during training, on environments of their own."""

    every_steps: int = Field(default=100_000, ge=1)
    """Environment steps from one evaluation to the next."""
    episodes: int = Field(default=20, ge=1)
    """In each evaluation."""
    num_envs: int = Field(default=10, ge=1)
    deterministic: bool = True
    """The most probable action; otherwise a sample, as in training."""


class CheckpointConfig(Config):
    """What stays on disk. A checkpoint is written at every evaluation, and at the end."""

    keep: int = Field(default=3, ge=1)
    """How many of the newest; the best one stays in any case."""


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
    core: CoreConfig = FastWeightConfig()
    stack: StackConfig = StackConfig()
    encoder: EncoderConfig = EncoderConfig()
    reward: RewardConfig = RewardConfig()
    ppo: PPOConfig = PPOConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    total_steps: int = Field(ge=1)
    """Environment steps, over all environments."""
    seed: int = Field(default=0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes CUDA where there is some."""
    num_threads: int = Field(default=1, ge=1)
    """Of PyTorch on the CPU. Small recurrent work is fastest on one."""

    @property
    def policy(self) -> PolicyConfig:
        """The part that a checkpoint must know to build the policy again."""
        return PolicyConfig(
            encoder=self.encoder, core=self.core, stack=self.stack, reward=self.reward
        )

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


# What is meant where a file names no kind.
DEFAULT_KINDS = {"core": "fast_weight", "env": "gymnasium"}

# What may differ when a run is continued: how long, how often, and on what.
MAY_CHANGE = frozenset({"total_steps", "evaluation", "checkpoint", "device", "num_threads"})


def load_run_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration in a file, with ``key=value`` overrides.

    Raises:
        ConfigError: One line that says where, what is wrong and what would be right.
    """
    values = read_yaml(Path(path))
    for override in sorted(overrides, key=lambda text: not _sets_kind(text)):
        _apply(values, override)
    return validate(RunConfig, values)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: If there is no such file, or no mapping in it.
    """
    try:
        values = _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; `fwrl list configs` shows what there is"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {type(values).__name__}; it should hold key: value lines")
    return cast(dict[str, Any], values)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 3e-4 as text; this one reads a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _sets_kind(override: str) -> bool:
    return override.partition("=")[0].endswith("kind")


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one dotted key. Another ``kind`` starts from that kind's own defaults."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r}: not an override; it should be KEY=VALUE, like seed=1")
    try:
        value = _Loader(text).get_single_data()
    except yaml.YAMLError:
        raise ConfigError(f"{key}: {text!r} is not a YAML value") from None
    *parents, name = key.split(".")
    mapping = values
    for i, parent in enumerate(parents):
        child = mapping.setdefault(parent, {})
        if not isinstance(child, dict):
            where = ".".join(parents[: i + 1])
            raise ConfigError(f"{key}: {where} is {child!r}, which has no keys inside")
        mapping = cast(dict[str, Any], child)
    if name == "kind" and mapping.get("kind", DEFAULT_KINDS.get(parents[-1])) != value:
        mapping.clear()
    mapping[name] = value


def differences(old: Mapping[str, Any], new: Mapping[str, Any], where: str = "") -> list[str]:
    """The dotted keys that differ between two configurations written as mappings."""
    found: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        place = f"{where}.{key}" if where else key
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(cast(dict[str, Any], before), cast(dict[str, Any], after), place)
        elif before != after:
            found.append(f"{place} ({before!r} there, {after!r} here)")
    return found
