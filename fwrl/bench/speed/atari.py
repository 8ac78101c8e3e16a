"""Training on images, compared with its unavoidable parts: the emulator and the convolutions."""

from functools import partial

import numpy as np
import torch

from agents.policy import PolicyConfig, RewardConfig
from envs import AtariConfig, EnvConfigError, VectorEnv, make_envs
from fwrl.bench.benchmark import Measurement
from fwrl.bench.speed.settings import DELTA_NET, SpeedSettings
from fwrl.bench.speed.timing import Compared, Run, Seconds, compare, in_turns
from fwrl.bench.speed.trainers import Agent
from fwrl.bench.speed.training import ppo_config
from fwrl.config import ConfigError
from fwrl.stack import StackConfig
from fwrl.state import map_tensors

EMULATOR, ENCODER = "emulator alone", "convolutions alone"
BOTH = "emulator and convolutions"
# Width and heads of configs/atari/nature.yaml.
WIDTH, HEADS = 256, 8


def measure_atari(settings: SpeedSettings, device: torch.device, seed: int) -> Measurement:
    """Training of an agent on Atari; the ratio is the peer's share of the training time."""
    config = AtariConfig(game=settings.game, num_envs=settings.atari_envs)
    policy = PolicyConfig(
        stack=StackConfig(width=WIDTH),
        core=DELTA_NET.model_copy(update={"heads": HEADS}),
        reward=RewardConfig(clip=1.0),
    )
    try:
        emulators = make_envs(config)
    except EnvConfigError as error:
        raise ConfigError(str(error)) from None
    agent = Agent(config, policy, ppo_config(settings), device, seed)
    name = f"training, {settings.game}"
    runs: dict[str, Run] = {
        name: agent.iterate,
        EMULATOR: _play(emulators, settings.num_steps),
        ENCODER: partial(_encode, agent),
    }
    times = yield from in_turns(runs, settings, device, settings.game)
    times[BOTH] = [
        Seconds(a.wall + b.wall, a.processor + b.processor)
        for a, b in zip(times[EMULATOR], times[ENCODER], strict=True)
    ]
    agent.envs.close()
    emulators.close()
    count = settings.atari_envs
    shape = f"{count} environments, {settings.num_steps} steps, width {WIDTH}"
    return [
        compare(
            Compared(name, peer, shape, "us"), times[name], times[peer], settings.num_steps * count
        )
        for peer in (EMULATOR, ENCODER, BOTH)
    ]


def _play(envs: VectorEnv, steps: int) -> Run:
    """A run of random actions."""
    envs.reset(0)
    size = (steps, envs.num_envs)
    actions = np.random.default_rng(0).integers(envs.action_space.n, size=size)  # pyright: ignore[reportAttributeAccessIssue]

    def play() -> None:
        for action in actions:
            envs.step(action)

    return play


def _encode(agent: Agent) -> None:
    """The encoder's part of a training step: once at each time, then forward and backward."""
    policy, rollout = agent.policy, agent.rollout
    assert rollout is not None
    with torch.no_grad():
        for t in range(rollout.value.shape[1]):
            at_one_time = partial(torch.select, dim=1, index=t)
            policy.encode(map_tensors(at_one_time, rollout.inputs))
    for _ in range(agent.config.epochs):
        for batch in rollout.minibatches(agent.config.minibatches):
            policy.zero_grad()
            policy.encode(batch.inputs).square().mean().backward()
