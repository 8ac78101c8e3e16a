"""Agents that learn, end to end: ours and others through the same vector environments."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents.policy import PolicyConfig, RecurrentPolicy
from agents.ppo import PPOConfig, make_optimizer, ppo_update
from agents.rollout import EpisodeCounter, collect, start
from envs import GymnasiumConfig, make_envs
from envs.sb3 import from_sb3, to_sb3
from fwrl.bench.benchmark import Measurement, Row
from fwrl.bench.speed.lstm_ppo import LSTMPPO
from fwrl.bench.speed.settings import SpeedSettings
from fwrl.bench.speed.timing import Compared, Run, compare, in_turns
from fwrl.stack import StackConfig

# All of its episodes are equally long, and the observation alone is not enough.
TASK = "fwrl/RepeatPrevious-v0"
OURS = "fwrl, fast_weight"
FEED_FORWARD = "SB3 PPO, feed-forward"
WITHOUT_CONTRIB = "sb3-contrib is not installed: the rows of RecurrentPPO are left out"
SHARED = {"enable_critic_lstm": False, "shared_lstm": True}


class Variant(NamedTuple):
    """One way to train by RecurrentPPO."""

    # of the policy, beside the size of its LSTMs
    options: dict[str, Any]
    # steps of a minibatch; None: as many minibatches as ours
    batch_size: int | None


# RecurrentPPO's own minibatches have 128 steps, whatever the rollout; "of 128" stands for them.
RECURRENT = {
    "RecurrentPPO": Variant({}, None),
    "RecurrentPPO, one LSTM": Variant(SHARED, None),
    "RecurrentPPO of 128": Variant({}, 128),
    "RecurrentPPO of 128, one LSTM": Variant(SHARED, 128),
}


def has_contrib() -> bool:
    """Whether sb3-contrib is there."""
    return find_spec("sb3_contrib") is not None


def measure_training(settings: SpeedSettings, device: torch.device, seed: int) -> Measurement:
    """Rollout and updates, in steps per second."""
    rows: list[Row] = []
    for count in settings.training_envs:
        runs: dict[str, Run] = {OURS: _ours(settings, count, device, seed)}
        if has_contrib():
            for name, variant in RECURRENT.items():
                runs[name] = _sb3(settings, count, device, seed, variant)
        loop = LSTMPPO(_envs(count), _ppo(settings), settings.width, device, seed)
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


def _ppo(settings: SpeedSettings) -> PPOConfig:
    return PPOConfig(
        num_steps=settings.num_steps, epochs=settings.epochs, minibatches=settings.minibatches
    )


def _ours(settings: SpeedSettings, count: int, device: torch.device, seed: int) -> Run:
    torch.manual_seed(seed)
    envs, config = from_sb3(_envs(count)), _ppo(settings)
    policy = _policy(settings, envs, device)
    optimizer = make_optimizer(policy, config)
    carry, counter = start(envs, policy, seed), EpisodeCounter(count)

    def iterate() -> None:
        nonlocal carry
        rollout, carry, _ = collect(
            envs, policy, carry, config.num_steps, config.discount, config.gae_lambda, counter
        )
        ppo_update(policy, optimizer, rollout, config)

    return iterate


def _policy(settings: SpeedSettings, envs: Any, device: torch.device) -> RecurrentPolicy:
    config = PolicyConfig(stack=StackConfig(width=settings.width))
    return RecurrentPolicy(envs.observation_space, envs.action_space, config).to(device)


def _sb3(
    settings: SpeedSettings,
    count: int,
    device: torch.device,
    seed: int,
    recurrent: Variant | None,
) -> Run:
    """An algorithm of Stable-Baselines3 with as many steps and epochs as ours.

    Args:
        settings: Of the benchmark.
        count: Environments.
        device: Where it computes.
        seed: Of the algorithm and its environments.
        recurrent: How; None: PPO without memory.
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
    """One pass of our updates per step of a rollout, against that of the shortest rollout."""
    torch.manual_seed(seed)
    envs = make_envs(GymnasiumConfig(id=TASK, num_envs=settings.update_envs))
    policy = _policy(settings, envs, device)
    config = _ppo(settings).model_copy(update={"epochs": 1})
    optimizer = make_optimizer(policy, config)
    carry, counter = start(envs, policy, seed), EpisodeCounter(settings.update_envs)
    runs: dict[str, Run] = {}
    for times in settings.update_lengths:
        rollout, carry, _ = collect(
            envs, policy, carry, times, config.discount, config.gae_lambda, counter
        )
        runs[f"T {times}"] = _update(policy, optimizer, rollout, config)
    seconds = yield from in_turns(runs, settings, device, "update")
    first, *others = settings.update_lengths
    count = settings.update_envs
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


def _update(policy: RecurrentPolicy, optimizer: Any, rollout: Any, config: PPOConfig) -> Run:
    return lambda: ppo_update(policy, optimizer, rollout, config)
