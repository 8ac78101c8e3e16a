"""Agents learn what their memory allows, and one without memory does not.

Each threshold lies between what the better and what the worse agent reached on these seeds, nearer
to the better one; the figures stand beside it.
"""

from pathlib import Path

import pytest

from agents.evaluation import evaluate, summarise
from agents.ppo import ppo_update
from agents.rollout import EpisodeCounter, collect, start
from fwrl.cli.run_config import load_run_config
from fwrl.cli.training import prepare

CONFIGS = Path(__file__).parent.parent / "configs"
pytestmark = pytest.mark.learns


def return_after(steps, config_file, *overrides):
    """Mean return of the trained policy over 50 episodes that it was not trained on."""
    config = load_run_config(CONFIGS / config_file, [*overrides, f"total_steps={steps}"])
    envs, evaluation_envs, learner = prepare(config)
    policy, ppo = learner.policy, config.ppo
    carry, counter = start(envs, policy, seed=1), EpisodeCounter(envs.num_envs)
    taken = 0
    while taken < steps:
        rollout, carry, _ = collect(
            envs, policy, carry, ppo.num_steps, ppo.discount, ppo.gae_lambda, counter
        )
        ppo_update(policy, learner.optimizer, rollout, ppo, 1 - taken / steps)
        taken += ppo.num_steps * envs.num_envs
    return summarise(evaluate(policy, evaluation_envs, 50, seed=1_000_000)).return_mean


QUICK = ("quickstart.yaml", "env.num_envs=32", "ppo.num_steps=40")


def test_the_delta_rule_keeps_the_latest_value_of_every_key():
    assert return_after(60_000, *QUICK) > 0.8


def test_without_memory_the_task_is_not_solved():
    # chance is -0.5
    assert return_after(60_000, *QUICK, "core.kind=none") < -0.3


@pytest.mark.parametrize("core", ["fast_weight", "lstm", "gru"])
def test_every_memory_repeats_the_first_card(core):
    words = (f"core.kind={core}", "env.num_envs=32", "stack.layers=1", "ppo.learning_rate=0.001")
    assert return_after(60_000, "memory/repeat_first_easy.yaml", *words) > 0.8


def test_without_memory_the_first_card_is_forgotten():
    words = ("core.kind=none", "env.num_envs=32", "stack.layers=1", "ppo.learning_rate=0.001")
    # chance is -0.5
    assert return_after(60_000, "memory/repeat_first_easy.yaml", *words) < -0.3
