"""End-to-end training of our agents and others in the same vector environments."""

from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents.policy import PolicyConfig, RecurrentPolicy
from agents.ppo import PPOConfig, make_optimizer, ppo_update
from agents.rollout import EpisodeCounter, Rollout, collect, start
from envs import GymnasiumConfig, VectorEnv, make_envs
from envs.sb3 import from_sb3, to_sb3
from fwrl.bench.benchmark import Measurement, Row
from fwrl.bench.speed.lstm_ppo import LSTMPPO
from fwrl.bench.speed.settings import SpeedSettings
from fwrl.bench.speed.timing import Compared, Run, compare, in_turns
from fwrl.stack import StackConfig

# Its episodes are all equally long, and it needs memory.
TASK = "fwrl/RepeatPrevious-v0"
OURS = "fwrl, fast_weight"
FEED_FORWARD = "SB3 PPO, feed-forward"
WITHOUT_CONTRIB = "sb3-contrib is not installed: the rows of RecurrentPPO are left out"
SHARED = {"enable_critic_lstm": False, "shared_lstm": True}


class Variant(NamedTuple):
    """A variant of RecurrentPPO."""

    # options of the policy, beside the size of its LSTMs
    options: dict[str, Any]
    # steps of a minibatch; None: as many minibatches as ours
    batch_size: int | None


# RecurrentPPO's default minibatches of 128 steps, whatever the rollout, are called "of 128".
RECURRENT = {
    "RecurrentPPO": Variant({}, None),
    "RecurrentPPO, one LSTM": Variant(SHARED, None),
    "RecurrentPPO of 128": Variant({}, 128),
    "RecurrentPPO of 128, one LSTM": Variant(SHARED, 128),
}


def has_contrib() -> bool:
    """Whether sb3-contrib is installed."""
    return find_spec("sb3_contrib") is not None


def measure_training(settings: SpeedSettings, device: torch.device, seed: int) -> Measurement:
    """Rollouts and updates, in steps per second."""
    rows: list[Row] = []
    for count in settings.training_envs:
        runs: dict[str, Run] = {OURS: _ours(settings, from_sb3(_envs(count)), device, seed).iterate}
        if has_contrib():
            for name, variant in RECURRENT.items():
                runs[name] = _sb3(settings, count, device, seed, variant)
        loop = LSTMPPO(_envs(count), ppo_config(settings), settings.width, device, seed)
        runs["LSTM PPO in one file"] = loop.iterate
        runs[FEED_FORWARD] = _sb3(settings, count, device, seed, None)
        times = yield from in_turns(runs, settings, device, f"{count} environments")
        shape = f"{count} environments"
        rows += [
            compare(
                Compared(OURS, peer, shape, "steps/s"),
                times[OURS],
                seconds,
                settings.num_steps * count,
            )
            for peer, seconds in times.items()
            if peer != OURS
        ]
    return rows


def _envs(count: int) -> VecEnv:
    return to_sb3(make_envs(GymnasiumConfig(id=TASK, num_envs=count)))


def ppo_config(settings: SpeedSettings) -> PPOConfig:
    """The algorithm of all agents."""
    return PPOConfig(
        num_steps=settings.num_steps, epochs=settings.epochs, minibatches=settings.minibatches
    )


class Agent:
    """A policy of ours in its environments, and its last rollout."""

    def __init__(
        self,
        envs: VectorEnv,
        policy: PolicyConfig,
        config: PPOConfig,
        device: torch.device,
        seed: int,
    ) -> None:
        torch.manual_seed(seed)
        self.envs, self.config = envs, config
        built = RecurrentPolicy(envs.observation_space, envs.action_space, policy)
        self.policy = built.to(device)
        self.optimizer = make_optimizer(self.policy, config)
        self.carry = start(envs, self.policy, seed)
        self.counter = EpisodeCounter(envs.num_envs)
        self.rollout: Rollout | None = None

    def collect(self, num_steps: int) -> Rollout:
        """The next rollout of this many steps."""
        discount, gae_lambda = self.config.discount, self.config.gae_lambda
        self.rollout, self.carry, _ = collect(
            self.envs, self.policy, self.carry, num_steps, discount, gae_lambda, self.counter
        )
        return self.rollout

    def update(self, rollout: Rollout) -> None:
        """Learn from a rollout."""
        ppo_update(self.policy, self.optimizer, rollout, self.config)

    def iterate(self) -> None:
        """Act, then learn."""
        self.update(self.collect(self.config.num_steps))


def _ours(settings: SpeedSettings, envs: VectorEnv, device: torch.device, seed: int) -> Agent:
    policy = PolicyConfig(stack=StackConfig(width=settings.width))
    return Agent(envs, policy, ppo_config(settings), device, seed)


def _sb3(
    settings: SpeedSettings, count: int, device: torch.device, seed: int, recurrent: Variant | None
) -> Run:
    """An algorithm of Stable-Baselines3, with as many steps and epochs as ours.

    With ``recurrent`` it is this variant of RecurrentPPO; with None it is PPO without memory.
    """
    steps, width = count * settings.num_steps, settings.width
    batch_size, make, policy = steps // settings.minibatches, PPO, "MlpPolicy"
    options: dict[str, Any] = {"net_arch": [width, width]}
    if recurrent is not None:
        batch_size = recurrent.batch_size or batch_size
        make, policy = import_module("sb3_contrib").RecurrentPPO, "MlpLstmPolicy"
        options = {"lstm_hidden_size": width, **recurrent.options}
    model: BaseAlgorithm = make(
        policy,
        _envs(count),
        n_steps=settings.num_steps,
        batch_size=batch_size,
        n_epochs=settings.epochs,
        seed=seed,
        device=device,
        policy_kwargs=options,
    )
    opened = False

    def iterate() -> None:
        nonlocal opened
        model.learn(steps, log_interval=None, reset_num_timesteps=not opened)  # pyright: ignore[reportArgumentType]
        opened = True

    return iterate


def measure_update(settings: SpeedSettings, device: torch.device, seed: int) -> Measurement:
    """Our update's time per step in rollouts of growing length, against the shortest."""
    count = settings.update_envs
    envs = make_envs(GymnasiumConfig(id=TASK, num_envs=count))
    agent = _ours(settings.model_copy(update={"epochs": 1}), envs, device, seed)
    runs: dict[str, Run] = {
        f"T {times}": partial(agent.update, agent.collect(times))
        for times in settings.update_lengths
    }
    seconds = yield from in_turns(runs, settings, device, "update")
    first, *others = settings.update_lengths
    return [
        compare(
            Compared(OURS, f"T {first}", f"{count} environments, T {times}", "us"),
            seconds[f"T {times}"],
            seconds[f"T {first}"],
            count * times,
            count * first,
        )
        for times in others
    ]
