"""Trains an agent and returns its mean return; the tests of learning share it."""

from pathlib import Path

import numpy as np

from agents.evaluation import evaluate, summarise
from agents.ppo import ppo_update
from agents.rollout import EpisodeCounter, collect, start
from fwrl.run.build import prepare
from fwrl.run.config import load_run_config

CONFIGS = Path(__file__).parents[2] / "configs"


def train_until(steps, config_file, *overrides, enough=float("inf")):
    """Train; return the mean return of 300 evaluation episodes and the number of training steps.

    Training ends early when the mean return of one rollout's episodes reaches ``enough``.
    """
    config = load_run_config(CONFIGS / config_file, [*overrides, f"total_steps={steps}"])
    envs, evaluation_envs, learner = prepare(config)
    policy, ppo = learner.policy, config.ppo
    carry, counter = start(envs, policy, seed=1), EpisodeCounter(envs.num_envs)
    taken = 0
    while taken < steps:
        rollout, carry, episodes = collect(
            envs, policy, carry, ppo.num_steps, ppo.discount, ppo.gae_lambda, counter
        )
        # before the update, so that the policy evaluated is the one that reached it
        if episodes.returns and np.mean(episodes.returns) >= enough:
            break
        ppo_update(policy, learner.optimizer, rollout, ppo, 1 - taken / steps)
        taken += ppo.num_steps * envs.num_envs
    finished = evaluate(policy, evaluation_envs, 300, seed=1_000_000)
    return summarise(finished).return_mean, taken


def return_after(steps, config_file, *overrides):
    """The mean return after ``steps`` steps, rounded up to whole rollouts."""
    return train_until(steps, config_file, *overrides)[0]
