"""Reinforcement learning on graphs that no agent has seen (Schlag et al. 2021b).

Each point trains one agent with one seed on whole episodes of ``GraphMetaRL`` and gives a curve:
the return of an episode on the 600 test graphs, with sampled actions, and on the training graphs.
The default is the published algorithm, advantage actor-critic: PPO with one update per rollout,
``gae_lambda`` 1 and nothing clipped or normalised.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt, field_validator

from agents.encoders import EncoderConfig
from agents.evaluation import evaluate
from agents.intervals import NORMAL
from agents.policy import PolicyConfig, RecurrentPolicy, RewardConfig
from agents.ppo import PPOConfig, ppo_update
from agents.rollout import EpisodeCounter, collect, start
from envs import VectorEnv, make_envs
from envs.gymnasium_env import GymnasiumConfig, OptionValue
from fwrl.bench.benchmark import Benchmark, Measurement, Progress, Row, Settings, grid, one_of
from fwrl.bench.metarl.figure import PUBLISHED, draw
from fwrl.bench.supervised import Learner, TrainingConfig
from fwrl.cores import CoreConfig
from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.cores.fast_weight_memory import FastWeightMemoryConfig
from fwrl.cores.lstm import LSTMConfig
from fwrl.cores.none import NoMemoryConfig
from fwrl.run.process import Clock, choose_device
from fwrl.stack import StackConfig

EPISODE = 30
TEST_GRAPHS = 600

METHODS: dict[str, CoreConfig] = {
    "fast_weight_memory": FastWeightMemoryConfig(hidden_size=32),
    "fast_weight": FastWeightConfig(
        update_rule="delta",
        heads=2,
        key_size=16,
        value_size=16,
        short_convolution=4,
        convolution_init="random",
    ),
    "lstm 32": LSTMConfig(hidden_size=32, forget_bias=0.0),
    "lstm 128": LSTMConfig(hidden_size=128, forget_bias=0.0),
    "lstm 512": LSTMConfig(hidden_size=512, forget_bias=0.0),
    "none": NoMemoryConfig(),
}

# The published agent: nothing around its memory, and its algorithm.
BARE = StackConfig(bare=True, width=17)
A2C = PPOConfig(
    num_steps=EPISODE,
    epochs=1,
    minibatches=1,
    learning_rate=1e-3,
    learning_rate_schedule="constant",
    adam_epsilon=1e-4,
    discount=0.9,
    gae_lambda=1.0,
    value_weight=0.1,
    entropy_weight=0.03,
    entropy_schedule="constant",
    normalise_advantage=False,
    advantage_floor=0.0,
    max_grad_norm=None,
)
# With several updates on each rollout, less time and fewer episodes are needed than as published.
PPO = {
    "epochs": 4,
    "learning_rate": 2e-3,
    "learning_rate_schedule": "linear",
    "adam_epsilon": 1e-5,
    "gae_lambda": 0.95,
    "value_weight": 0.5,
    "normalise_advantage": True,
    "max_grad_norm": 0.5,
}


class MetaRLSettings(Settings):
    """The defaults are the published recipe."""

    axes: ClassVar[tuple[str, ...]] = ("methods", "seeds")

    methods: Annotated[tuple[str, ...], one_of(METHODS)] = ("fast_weight_memory", "lstm 512")
    """Memories, by the names of ``METHODS`` in fwrl/bench/metarl/benchmark.py."""
    graphs: Literal["train", "fresh"] = "train"
    """Training graphs: environment i always has the i-th of the 600 published ones, or each episode
    draws a new one that is no test graph."""
    published_observation: bool = True
    """Whether the observation hides the last reward, as the published code did."""
    num_envs: PositiveInt = 600
    """Environments, and so episodes in each rollout."""
    updates: PositiveInt = 50_000
    """Number of rollouts from which the agent learns."""
    evaluate_every: PositiveInt = 50
    """Updates between two evaluations."""
    stack: StackConfig = BARE
    """The layers around the memory; the published agent has none."""
    reward_scale: float = Field(default=1.0, gt=0)
    """Factor on rewards for the learner; the curves are without it."""
    ppo: PPOConfig = A2C
    """The algorithm; the published one is advantage actor-critic."""

    @field_validator("ppo")
    @classmethod
    def _whole_episodes(cls, ppo: PPOConfig) -> PPOConfig:
        if ppo.num_steps != EPISODE:
            raise ValueError(f"num_steps is {ppo.num_steps}; an episode has {EPISODE}")
        return ppo

    def policy(self, method: str) -> PolicyConfig:
        """The configuration of the agent's network."""
        return PolicyConfig(
            encoder=EncoderConfig(previous_action=False, previous_reward=False),
            core=METHODS[method],
            stack=self.stack,
            reward=RewardConfig(scale=self.reward_scale),
        )

    def envs(self, split: str, num_envs: int) -> VectorEnv:
        """Environments on the graphs of a split, each with its own graph unless all are fresh."""
        options: dict[str, OptionValue] = {
            "split": split,
            "published_observation": self.published_observation,
        }
        if split != "fresh":
            options["graph"] = 0
        return make_envs(GymnasiumConfig(id="fwrl/GraphMetaRL-v0", options=options), num_envs)


def points(settings: MetaRLSettings) -> list[Row]:
    """One seed of every method before the next seed."""
    return grid({"method": settings.methods, "seed": settings.seeds})


def measure(settings: MetaRLSettings, point: Row, folder: Path) -> Measurement:
    """Train and evaluate in turns; each turn begins with new episodes."""
    seed, ppo = int(point["seed"]), settings.ppo
    torch.manual_seed(seed)
    envs = settings.envs(settings.graphs, settings.num_envs)
    test = settings.envs("test", TEST_GRAPHS)
    config = settings.policy(str(point["method"]))
    policy = RecurrentPolicy(envs.observation_space, envs.action_space, config)
    adam = TrainingConfig(optimizer="adam", epsilon=ppo.adam_epsilon)
    learner = Learner(policy.to(choose_device(settings.device)), adam)
    generator = torch.Generator()
    rows: list[Row] = learner.restore(folder, generator)[1]
    saving, began = Clock(settings.save_every), time.process_time()
    while learner.step < settings.updates:
        carry = start(envs, policy, _seed(seed, learner.step, 0))
        counter, returns = EpisodeCounter(envs.num_envs), list[float]()
        for _ in range(min(settings.evaluate_every, settings.updates - learner.step)):
            rollout, carry, episodes = collect(
                envs, policy, carry, EPISODE, ppo.discount, ppo.gae_lambda, counter
            )
            ppo_update(policy, learner.optimizer, rollout, ppo, 1 - learner.step / settings.updates)
            learner.step += 1
            returns += episodes.returns
            yield Progress(learner.step, settings.updates, _last_return(rows))
        found = evaluate(policy, test, TEST_GRAPHS, _seed(seed, learner.step, 1), False).returns
        before, began = began, time.process_time()
        rows.append(_row(settings, learner.step, found, returns, rows, began - before))
        if saving.due() or learner.step == settings.updates:
            learner.save(folder, generator, rows=rows)
    return rows


def _row(
    settings: MetaRLSettings,
    updates: int,
    test: Sequence[float],
    train: Sequence[float],
    rows: Sequence[Row],
    seconds: float,
) -> Row:
    test_mean, test_error = mean_and_error(test)
    train_mean, train_error = mean_and_error(train)
    return {
        "updates": updates,
        "environment_steps": updates * EPISODE * settings.num_envs,
        "test_return": round(test_mean, 2),
        "test_error": round(test_error, 2),
        "train_return": round(train_mean, 2),
        "train_error": round(train_error, 2),
        "cpu_seconds": round(seconds + (float(rows[-1]["cpu_seconds"]) if rows else 0.0), 1),
    }


def mean_and_error(returns: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % interval by the normal distribution."""
    error = NORMAL * float(np.std(returns, ddof=1)) / math.sqrt(len(returns))
    return float(np.mean(returns)), error


def _last_return(rows: Sequence[Row]) -> str:
    return f"return on test graphs {rows[-1]['test_return']:.1f}" if rows else ""


def _seed(seed: int, updates: int, use: int) -> int:
    """A seed for the episodes of a turn's training (use 0) or its evaluation (use 1)."""
    return int(np.random.SeedSequence((seed, updates, use)).generate_state(1)[0] >> 1)


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "methods": ("fast_weight_memory", "none"),
        "num_envs": 20,
        "updates": 6,
        "evaluate_every": 3,
    },
    "cpu": {
        "methods": ("fast_weight_memory", "none", "lstm 128"),
        "graphs": "fresh",
        "num_envs": 100,
        "updates": 5_000,
        "evaluate_every": 100,
        "reward_scale": 0.1,
        "ppo": PPO,
    },
    "paper": {},
}

BENCHMARK = Benchmark(MetaRLSettings, PRESETS, points, measure, draw, PUBLISHED)
