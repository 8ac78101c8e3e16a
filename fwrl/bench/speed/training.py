"""End-to-end training of our agents and others in the same vector environments."""

from functools import partial

import torch

from agents.ppo import PPOConfig
from fwrl.bench.benchmark import Measurement, Row
from fwrl.bench.speed.job import TrainingConfig
from fwrl.bench.speed.settings import DELTA_NET, SpeedSettings
from fwrl.bench.speed.timing import Compared, Run, compare, in_turns
from fwrl.bench.speed.trainers import OURS, TRAINERS, Agent, built, our_policy, present

# Its episodes are all equally long, and it needs memory.
TASK = "RepeatPrevious"


def measure_training(settings: SpeedSettings, device: torch.device, seed: int) -> Measurement:
    """Rollouts and updates, in steps per second."""
    rows: list[Row] = []
    for count in settings.training_envs:
        with built(present(TRAINERS), _job(settings, count, seed), device) as learners:
            runs: dict[str, Run] = {name: each.iterate for name, each in learners.items()}
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


def _job(settings: SpeedSettings, count: int, seed: int) -> TrainingConfig:
    return TrainingConfig(
        task=TASK,
        num_envs=count,
        width=settings.width,
        ppo=ppo_config(settings),
        seed=seed,
        threads=torch.get_num_threads(),
    )


def ppo_config(settings: SpeedSettings) -> PPOConfig:
    """The algorithm of all agents, of which not all can change the entropy bonus as they learn."""
    return PPOConfig(
        num_steps=settings.num_steps,
        epochs=settings.epochs,
        minibatches=settings.minibatches,
        entropy_schedule="constant",
    )


def measure_update(settings: SpeedSettings, device: torch.device, seed: int) -> Measurement:
    """Our update's time per step in rollouts of growing length, against the shortest."""
    count = settings.update_envs
    job = _job(settings.model_copy(update={"epochs": 1}), count, seed)
    agent = Agent(job.env, our_policy(job, DELTA_NET), job.ppo, device, seed)
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
