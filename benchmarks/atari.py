"""How near a training run comes to the emulator: steps per second, and where the time goes.

``python benchmarks/atari.py [GAME]`` steps the emulator alone with random actions, then trains on
the same environments with the same number of threads, and prints both and their ratio.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from agents.ppo import ppo_update
from agents.rollout import EpisodeCounter, Rollout, collect, start
from fwrl.cli.run_config import load_run_config
from fwrl.cli.training import Setup, prepare
from fwrl.state import map_tensors

CONFIG = Path(__file__).parent.parent / "configs/atari/pong.yaml"
EMULATOR_STEPS, UPDATES = 500, 4


def emulator_speed(setup: Setup) -> float:
    """Steps per second of the environments alone."""
    envs = setup.envs
    envs.reset(0)
    actions = np.random.default_rng(0).integers(
        envs.action_space.n, size=(EMULATOR_STEPS, envs.num_envs)
    )
    began = time.perf_counter()
    for action in actions:
        envs.step(action)
    return EMULATOR_STEPS * envs.num_envs / (time.perf_counter() - began)


def encoder_seconds(setup: Setup, rollout: Rollout, epochs: int) -> float:
    """Of the convolutions alone: acting on a rollout, and learning from it."""
    policy = setup.learner.policy
    began = time.perf_counter()
    with torch.no_grad():
        for t in range(rollout.value.shape[1]):
            policy.encode(map_tensors(lambda leaf, t=t: leaf[:, t], rollout.inputs))
    for _ in range(epochs):
        for batch in rollout.minibatches(4):
            policy.encode(batch.inputs).square().mean().backward()
    return time.perf_counter() - began


def main() -> None:
    """Emulator first, then training."""
    game = sys.argv[1] if len(sys.argv) > 1 else "pong"
    config = load_run_config(CONFIG, [f"env.game={game}", *sys.argv[2:]])
    setup = prepare(config)
    emulator = emulator_speed(setup)
    envs, _, learner = setup
    carry, counter = start(envs, learner.policy, 0), EpisodeCounter(envs.num_envs)
    acting = learning = convolving = 0.0
    for _ in range(UPDATES):
        began = time.perf_counter()
        rollout, carry, _ = collect(
            envs, learner.policy, carry, config.ppo.num_steps, 0.99, 0.95, counter
        )
        acted = time.perf_counter()
        ppo_update(learner.policy, learner.optimizer, rollout, config.ppo)
        acting += acted - began
        learning += time.perf_counter() - acted
        convolving += encoder_seconds(setup, rollout, config.ppo.epochs)
    steps = UPDATES * config.ppo.num_steps * envs.num_envs
    training = steps / (acting + learning)
    share = (steps / emulator + convolving) / (acting + learning)
    Console().print(
        f"{game}: emulator alone {emulator:,.0f} steps/s, training {training:,.0f} steps/s "
        f"({training / emulator:.0%} of it)\n"
        f"acting {acting / steps * 1e6:.0f} us a step, of which the emulator takes "
        f"{1e6 / emulator:.0f}; learning {learning / steps * 1e6:.0f} us a step\n"
        f"the convolutions alone {convolving / steps * 1e6:.0f} us a step; "
        f"emulator and convolutions are {share:.0%} of the time",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
