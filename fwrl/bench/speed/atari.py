"""How near training on pictures comes to what cannot be avoided: the emulator and its pictures."""

from functools import partial

import numpy as np
import torch

from agents.policy import PolicyConfig, RecurrentPolicy, RewardConfig
from agents.ppo import PPOConfig, make_optimizer, ppo_update
from agents.rollout import EpisodeCounter, Rollout, collect, start
from envs import AtariConfig, EnvConfigError, VectorEnv, make_envs
from fwrl.bench.benchmark import Measurement
from fwrl.bench.speed.settings import SpeedSettings
from fwrl.bench.speed.timing import Compared, Run, compare, in_turns
from fwrl.config import ConfigError
from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.stack import StackConfig
from fwrl.state import map_tensors

EMULATOR, ENCODER = "emulator alone", "convolutions alone"
BOTH = "emulator and convolutions"
# Width and heads of configs/atari/pong.yaml.
WIDTH, HEADS = 256, 8


def measure_atari(settings: SpeedSettings, device: torch.device, seed: int) -> Measurement:
    """Training of an agent on Atari; the ratio is the share of its time that the peer takes."""
    config = AtariConfig(game=settings.game, num_envs=settings.atari_envs)
    try:
        envs, emulators = make_envs(config), make_envs(config)
    except EnvConfigError as error:
        raise ConfigError(str(error)) from None
    ppo = PPOConfig(
        num_steps=settings.num_steps, epochs=settings.epochs, minibatches=settings.minibatches
    )
    agent = _Agent(envs, ppo, device, seed)
    name = f"training, {settings.game}"
    runs: dict[str, Run] = {
        name: agent.iterate,
        EMULATOR: _play(emulators, settings.num_steps),
        ENCODER: agent.encode,
    }
    times = yield from in_turns(runs, settings, device, settings.game)
    times[BOTH] = [a + b for a, b in zip(times[EMULATOR], times[ENCODER], strict=True)]
    envs.close()
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
    """Random actions."""
    envs.reset(0)
    size = (steps, envs.num_envs)
    actions = np.random.default_rng(0).integers(envs.action_space.n, size=size)  # pyright: ignore[reportAttributeAccessIssue]

    def play() -> None:
        for action in actions:
            envs.step(action)

    return play


class _Agent:
    """A policy on pictures, and its last rollout."""

    def __init__(self, envs: VectorEnv, ppo: PPOConfig, device: torch.device, seed: int) -> None:
        torch.manual_seed(seed)
        config = PolicyConfig(
            stack=StackConfig(width=WIDTH),
            core=FastWeightConfig(heads=HEADS),
            reward=RewardConfig(clip=1.0),
        )
        self.envs, self.ppo = envs, ppo
        policy = RecurrentPolicy(envs.observation_space, envs.action_space, config)
        self.policy = policy.to(device)
        self.optimizer = make_optimizer(self.policy, ppo)
        self.carry = start(envs, self.policy, seed)
        self.counter = EpisodeCounter(envs.num_envs)
        self.rollout: Rollout | None = None

    def iterate(self) -> None:
        """Act, then learn."""
        ppo = self.ppo
        self.rollout, self.carry, _ = collect(
            self.envs,
            self.policy,
            self.carry,
            ppo.num_steps,
            ppo.discount,
            ppo.gae_lambda,
            self.counter,
        )
        ppo_update(self.policy, self.optimizer, self.rollout, ppo)

    def encode(self) -> None:
        """Of the same, what the encoder does: once at each time, then forward and backward."""
        assert self.rollout is not None
        times = self.rollout.value.shape[1]
        with torch.no_grad():
            for t in range(times):
                at_one_time = partial(torch.select, dim=1, index=t)
                self.policy.encode(map_tensors(at_one_time, self.rollout.inputs))
        for _ in range(self.ppo.epochs):
            for batch in self.rollout.minibatches(self.ppo.minibatches):
                self.policy.zero_grad()
                self.policy.encode(batch.inputs).square().mean().backward()
