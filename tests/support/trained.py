"""How far an agent comes: what the tests of learning share."""

from pathlib import Path

import numpy as np

from agents.evaluation import evaluate, summarise
from agents.ppo import ppo_update
from agents.rollout import EpisodeCounter, collect, start
from fwrl.run.build import prepare
from fwrl.run.config import load_run_config

CONFIGS = Path(__file__).parents[2] / "configs"


def train(steps, config_file, *overrides, enough=float("inf")):
    """The mean return over 300 episodes that it was not trained on, and the steps that it took.

    The training ends early where the episodes of one rollout return ``enough`` in the mean.
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
        # before the update: what is evaluated is what returned so much
        if episodes.returns and np.mean(episodes.returns) >= enough:
            break
        ppo_update(policy, learner.optimizer, rollout, ppo, 1 - taken / steps)
        taken += ppo.num_steps * envs.num_envs
    finished = evaluate(policy, evaluation_envs, 300, seed=1_000_000)
    return summarise(finished).return_mean, taken


def return_after(steps, config_file, *overrides):
    """The mean return after exactly so many steps, rounded up to whole rollouts."""
    return train(steps, config_file, *overrides)[0]
