"""Time to solve: seconds of training until the evaluated return passes a threshold.

Ours trains with its shipped configurations, but with a plain critic and rewards of 1 and -1, as
the peers need them. Each of these learns the same task in the same number of steps, with the
rollouts, discount and schedule of ours, and what else does it good (``PEERS``).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from envs import GymnasiumConfig
from fwrl.bench.benchmark import Measurement, Progress, Row
from fwrl.bench.speed.child import Child
from fwrl.bench.speed.job import Learner, TrainingConfig
from fwrl.bench.speed.settings import SpeedSettings
from fwrl.bench.speed.timing import Seconds, now, since
from fwrl.bench.speed.trainers import JAX, ONE_FILE, OURS, PUFFER, TRAINERS, Agent
from fwrl.run.config import RunConfig, load_run_config
from fwrl.run.precision import settled
from fwrl.run.yaml_files import find_config

# What a plain critic needs where each answer is rewarded at once.
PLAIN = ("critic.head=linear", "ppo.discount=0.5", "ppo.gae_lambda=0.9", "ppo.minibatches=4")
# The configuration of each task, and overrides.
TASKS = {
    "quickstart": ("configs/quickstart.yaml", ()),
    "repeat_previous_easy": (
        "configs/memory/repeat_previous_easy.yaml", ("reward.scale=48", *PLAIN),
    ),
    "repeat_previous_medium": (
        "configs/memory/repeat_previous_medium.yaml", ("reward.scale=72", *PLAIN),
    ),
}  # fmt: skip
# What differs from a job with our rates for the peers that can do these tasks.
PEERS: Mapping[str, Mapping[str, Any]] = {
    JAX: {"previous": True, "time_frequencies": 16},
    PUFFER: {},
    "RecurrentPPO": {},
    ONE_FILE: {},
}
SOLVERS = (OURS, *PEERS)


def measure_solve(
    settings: SpeedSettings, device: torch.device, seed: int, trainer: str, task: str
) -> Measurement:
    """One trainer in one task: its times, the steps that it took, and whether they were enough."""
    file, overrides = TASKS[task]
    config = settled(load_run_config(find_config(Path(file)), overrides), None)
    budget = round(settings.solve_budget * config.total_steps)
    steps, evaluated, found = 0, 0, -1.0
    began = now()
    learner = _learner(config, budget, device, seed, trainer)
    try:
        prepared = learner.preparation if isinstance(learner, Child) else since(began)
        trained = Seconds(0.0, 0.0)
        while steps < budget and found < settings.solved:
            yield Progress(steps, budget, f"{trainer}, {task}: return {found:.3g}")
            began = now()
            told = learner.iterate()
            took = told if isinstance(told, Seconds) else since(began)
            trained = Seconds(trained.wall + took.wall, trained.processor + took.processor)
            steps += config.env.num_envs * config.ppo.num_steps
            if steps // settings.solve_every > evaluated or steps >= budget:
                evaluated = steps // settings.solve_every
                found = learner.evaluate(settings.solve_episodes)
    finally:
        if isinstance(learner, Child):
            learner.close()
    note = "" if found >= settings.solved else f"not solved in {steps:,} steps"
    return [_row(settings, prepared, trained) | {"steps": steps, "return": found, "note": note}]


def _row(settings: SpeedSettings, prepared: Seconds, trained: Seconds) -> Row:
    return {
        "name": f"until a return of {settings.solved:g}",
        "unit": "s",
        "preparation": prepared.wall,
        "processor_preparation": prepared.processor,
        "total": prepared.wall + trained.wall,
        "processor_total": prepared.processor + trained.processor,
    }


def _learner(
    config: RunConfig, budget: int, device: torch.device, seed: int, trainer: str
) -> Learner:
    if trainer == OURS:
        return Agent(config.env, config.policy, config.ppo, device, seed, config.total_steps)
    env = config.env
    assert isinstance(env, GymnasiumConfig)
    job = TrainingConfig(
        task=env.id.removeprefix("fwrl/").removesuffix("-v0"),
        options=env.options,
        num_envs=env.num_envs,
        ppo=config.ppo,
        reward_scale=config.reward.scale,
        total_steps=budget,
        seed=seed,
        threads=torch.get_num_threads(),
    )
    return TRAINERS[trainer](job.model_copy(update=dict(PEERS[trainer])), device)
