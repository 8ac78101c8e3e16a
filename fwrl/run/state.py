"""The state of a training between two iterations, as a checkpoint and back.

The policy, the optimiser and the counters are the same in all processes of a training and are saved
once; environments, memory states and random numbers are saved in a file for each process. A
training that is continued with the same versions, threads and processes goes on bit for bit as if
it had never stopped.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from agents.distributed import gather_bytes, num_processes, rank
from agents.encoders import reading
from agents.policy import RecurrentPolicy
from agents.ppo import make_optimizer
from agents.rollout import Carry, EpisodeCounter, misfit, observed, start
from agents.saving import describe_policy
from agents.spaces import space_from_json
from envs import VectorEnv
from fwrl.config import ConfigError
from fwrl.cores import name_of
from fwrl.files.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_optimizer,
    load_tensors,
    optimizer_tensors,
    pack,
    unpack,
)
from fwrl.files.json_files import LARGEST_COUNT, is_count
from fwrl.run.config import RunConfig, changes, trained_with
from fwrl.run.directory import package_versions
from fwrl.run.log import RecentEpisodes
from fwrl.run.process import derived_seed, generator_states, load_generators
from fwrl.state import map_tensors, tensors_in, where_state

# The file of one process, by its rank.
PROCESS = "process.{}"


class Counters(NamedTuple):
    """How far a run has come, and how often something went wrong."""

    steps: int = 0
    iterations: int = 0
    seconds: float = 0.0
    evaluated_at: int = 0
    """The steps at the last evaluation."""
    env_faults: int = 0
    skipped_updates: int = 0
    skipping: int = 0
    """Iterations in a row, until now, in which an update was skipped."""
    rollbacks: int = 0
    tries: int = 0
    """Rollbacks in a row, with few iterations in between."""
    rolled_back_at: int = 0
    """The iterations at the last rollback."""

    def after(self, steps: int, seconds: float, faults: int, skipped: int) -> "Counters":
        """The counters one rollout and update later."""
        return self._replace(
            steps=self.steps + steps,
            iterations=self.iterations + 1,
            seconds=self.seconds + seconds,
            env_faults=self.env_faults + faults,
            skipped_updates=self.skipped_updates + skipped,
            skipping=self.skipping + 1 if skipped else 0,
        )

    def rolled_back(self, sound: int) -> "Counters":
        """The counters after another rollback; ``sound`` iterations end a row of them."""
        again = self.tries > 0 and self.iterations - self.rolled_back_at < sound
        return self._replace(
            skipping=0,
            rollbacks=self.rollbacks + 1,
            tries=self.tries + 1 if again else 1,
            rolled_back_at=self.iterations,
        )


class Learner(NamedTuple):
    """The policy and its optimiser, which an update changes."""

    policy: RecurrentPolicy
    optimizer: Optimizer


class Pending(NamedTuple):
    """An iteration whose evaluation is still to come; only then are its metrics written."""

    metrics: dict[str, float]


@dataclass
class Run:
    """A training between two iterations."""

    learner: Learner
    envs: VectorEnv
    carry: Carry
    episodes: EpisodeCounter
    """Returns and lengths, so far, of the episodes under way."""
    recent: RecentEpisodes = field(default_factory=RecentEpisodes)
    counters: Counters = field(default_factory=Counters)
    pending: Pending | None = None
    score: float | None = None
    """The mean return of an evaluation at this very step, if there was one."""


def episodes_seed(config: RunConfig, *numbers: int) -> int:
    """The seed of the episodes that this process opens; other numbers give other episodes."""
    return derived_seed(config.seed, *numbers) + rank() * config.env.num_envs


def begin(learner: Learner, envs: VectorEnv, seed: int) -> Run:
    """A training whose streams open their first episodes."""
    return Run(learner, envs, start(envs, learner.policy, seed), EpisodeCounter(envs.num_envs))


def capture(run: Run) -> Callable[[], Checkpoint]:
    """A copy of the run's state in this process, which no later step changes.

    The function puts it together, whenever it is called. Until then nothing is copied that grows
    with the length of episodes.
    """
    groups = {
        "policy": run.learner.policy.state_dict(),
        "optimizer": optimizer_tensors(run.learner.optimizer),
        "metrics": _metrics(run),
        "carried": {f"carry.{i}": leaf for i, leaf in enumerate(tensors_in(run.carry))},
        "own": _own(run),
    }
    copies = {
        file: {name: leaf.detach().clone() for name, leaf in group.items()}
        for file, group in groups.items()
    }
    carried, own = copies.pop("carried"), copies.pop("own")
    document = {"counters": run.counters._asdict(), "score": run.score}
    snapshot = run.envs.snapshot()

    def whole() -> Checkpoint:
        arrays = snapshot() or {}
        envs = {f"envs.{name}": torch.as_tensor(array) for name, array in arrays.items()}
        return Checkpoint({**copies, "process": carried | envs | own}, dict(document))

    return whole


def joined(captured: Checkpoint, policy: RecurrentPolicy, config: RunConfig) -> Checkpoint:
    """The checkpoint made of the captures of all processes, which must all call this."""
    own = Checkpoint({"process": captured.tensors["process"]}, {})
    shared = {file: group for file, group in captured.tensors.items() if file != "process"}
    parts = [unpack(data) for data in gather_bytes(pack(own))] if num_processes() > 1 else [own]
    each = {PROCESS.format(i): part.tensors["process"] for i, part in enumerate(parts)}
    document = {"policy": describe_policy(policy), **captured.document}
    document |= {"surroundings": surroundings_of(policy, config.num_threads)}
    return Checkpoint(shared | each, document | {"run": trained_with(config)})


def surroundings_of(policy: RecurrentPolicy, threads: int) -> dict[str, Any]:
    """Versions and settings that must be equal for a continued training to compute equal bits."""
    return package_versions() | {
        "device": policy.device.type,
        "threads": threads,
        "processes": num_processes(),
    }


def resume(
    learner: Learner, envs: VectorEnv, checkpoint: Checkpoint, config: RunConfig
) -> tuple[Run, list[str]]:
    """The training that a checkpoint holds.

    Args:
        learner: Built by the same configuration; receives what was saved, unless the keys of
            observations come in another order now.
        envs: Built by the same configuration; continued where that is possible.
        checkpoint: Saved by a training.
        config: Says by ``checkpoint.resume`` whether episodes under way are continued.

    Returns:
        The run, and in words why it does not continue bit for bit; nothing if it does.

    Raises:
        CheckpointError: If the checkpoint does not fit.
        ConfigError: If the environments have other spaces than they had.
    """
    learner = _arranged(learner, envs, checkpoint, config)
    load_learner(learner, checkpoint)
    counters = counters_of(checkpoint)
    run = begin(learner, envs, episodes_seed(config, counters.steps))
    try:
        run.counters, run.score = counters, checkpoint.document["score"]
        _load_metrics(run, checkpoint.tensors.get("metrics", {}))
        notes = _load_process(run, checkpoint, exact=config.checkpoint.resume == "exact")
    except CheckpointError:
        raise
    except KeyError as error:
        raise CheckpointError(f"{error} is missing; it was saved by something else") from None
    except (TypeError, ValueError, RuntimeError, OverflowError, IndexError) as error:
        raise CheckpointError(f"it cannot be continued: {' '.join(str(error).split())}") from None
    before = checkpoint.document.get("surroundings", {})
    for name, now in surroundings_of(learner.policy, config.num_threads).items():
        if before.get(name) != now:
            notes.append(f"{name} was {before.get(name, 'not recorded')} and is {now}")
    return run, notes + changes(checkpoint.document.get("run"), config)


def _arranged(
    learner: Learner, envs: VectorEnv, checkpoint: Checkpoint, config: RunConfig
) -> Learner:
    """The learner; a new one if the keys of observations had another order when it was saved."""
    before, now = checkpoint.document.get("policy", {}), describe_policy(learner.policy)
    names = ("observation_space", "action_space")
    # texts, which tell orders apart
    if all(json.dumps(before.get(name)) == json.dumps(now[name]) for name in names):
        return learner
    try:
        seen, actions = (space_from_json(before[name]) for name in names)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"it describes no policy ({error})") from None
    device = learner.policy.device
    policy = RecurrentPolicy(seen, actions, config.policy).to(device)
    other = misfit(policy, envs.observation_space, envs.action_space)
    if other is not None:
        raise ConfigError(f"env: has {other}")
    return Learner(policy, make_optimizer(policy, config.ppo))


def _load_process(run: Run, checkpoint: Checkpoint, exact: bool) -> list[str]:
    """Load what this process had for itself; returns what will differ from then."""
    own = checkpoint.tensors.get(PROCESS.format(rank()))
    if own is None:
        # other random numbers than in its last part of this training, if it ever had one
        torch.manual_seed(torch.initial_seed() + run.counters.steps)
        return ["the episodes under way were not saved"]
    notes = _load_streams(run, own) if exact else ["checkpoint.resume is 'fast'"]
    # last, so that nothing that was built or played again has used any of them
    load_generators(own, run.learner.policy.device)
    return notes


def counters_of(checkpoint: Checkpoint) -> Counters:
    """The counters of the training that a checkpoint holds.

    Raises:
        CheckpointError: If it holds none, or they are no numbers that a training counts to.
    """
    wrong = "its counters are not those of a training"
    try:
        counters = Counters(**checkpoint.document["counters"])
    except (KeyError, TypeError):
        raise CheckpointError(wrong) from None
    for name, number in counters._asdict().items():
        if name == "seconds":
            if type(number) not in (int, float) or not 0 <= number <= LARGEST_COUNT:
                raise CheckpointError(f"{wrong}: {name} is {number!r}; it should be a number")
        elif not is_count(number):
            right = f"it should be a whole number from 0 to {LARGEST_COUNT:,}"
            raise CheckpointError(f"{wrong}: {name} is {number!r}; {right}")
    return counters


def load_learner(learner: Learner, checkpoint: Checkpoint) -> None:
    """Load the policy and the optimiser of a checkpoint.

    Raises:
        CheckpointError: If they are of another configuration.
    """
    try:
        load_tensors(learner.policy, checkpoint.tensors["policy"], "policy")
        # before the first update there is nothing
        load_optimizer(learner.optimizer, checkpoint.tensors.get("optimizer", {}))
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"not what this configuration trains: {error}") from None


def describe(policy: RecurrentPolicy) -> str:
    """A line that says which memory is trained, how large it is, where, and what it observes."""
    parameters = sum(parameter.numel() for parameter in policy.parameters())
    remembered = sum(leaf.numel() for leaf in tensors_in(policy.initial_state(1)))
    hidden = policy.config.critic.observation
    critic = f"; its critic also reads {', '.join(hidden)}" if hidden else ""
    processes = f", in {num_processes()} processes" if num_processes() > 1 else ""
    name = name_of(policy.config.core)
    return (
        f"{name} memory of {remembered:,} numbers, {parameters:,} parameters, "
        f"on {policy.device}{processes}; reads {reading(policy.encoder)}{critic}"
    )


def _own(run: Run) -> dict[str, Tensor]:
    """The part of the state that each process has for itself, beside its streams."""
    arrays = {"returns": run.episodes.returns, "lengths": run.episodes.lengths}
    numbers = {name: torch.as_tensor(array) for name, array in arrays.items()}
    return numbers | generator_states(run.learner.policy.device)


def _load_streams(run: Run, own: Mapping[str, Tensor]) -> list[str]:
    """Continue the episodes under way where the environments can; returns what they cannot."""
    state = {n.removeprefix("envs."): own[n].numpy() for n in own if n.startswith("envs.")}
    if not state:
        return ["these environments cannot say where they are: all episodes begin anew"]
    fresh = run.carry
    saved = [own[f"carry.{i}"] for i in range(sum(name.startswith("carry.") for name in own))]
    alike = [(leaf.shape, leaf.dtype) for leaf in tensors_in(fresh)]
    if [(leaf.shape, leaf.dtype) for leaf in saved] != alike:
        raise CheckpointError("what its streams remember is not what this policy remembers")
    leaves = iter(saved)

    def take(leaf: Tensor) -> Tensor:
        return next(leaves).to(leaf.device)

    carry = map_tensors(take, fresh)
    anew, observation = run.envs.restore(state)
    returns, lengths = own["returns"].numpy().copy(), own["lengths"].numpy().copy()
    if anew.any():
        policy = run.learner.policy
        inputs = fresh.inputs._replace(observation=observed(policy, observation))
        rows = torch.as_tensor(anew, device=policy.device)
        carry = where_state(rows, fresh._replace(inputs=inputs), carry)
        returns[anew], lengths[anew] = 0.0, 0
    run.carry, run.episodes.returns, run.episodes.lengths = carry, returns, lengths
    count = int(anew.sum())
    return [f"{count} episodes were too long to be played again and begin anew"] if count else []


def _metrics(run: Run) -> dict[str, Tensor]:
    """Metrics as tensors: they may be NaN, which JSON cannot say."""
    numbers: dict[str, list[float]] = {
        f"recent.{name}": [math.nan if value is None else value for value in column]
        for name, column in vars(run.recent).items()
    }
    waiting = {} if run.pending is None else run.pending.metrics
    numbers |= {f"unfinished.{name}": [value] for name, value in waiting.items()}
    return {name: torch.tensor(each, dtype=torch.float64) for name, each in numbers.items()}


def _load_metrics(run: Run, saved: Mapping[str, Tensor]) -> None:
    columns = {name: saved.get(f"recent.{name}", torch.zeros(0)) for name in vars(run.recent)}
    run.recent.returns.extend(columns["returns"].tolist())
    run.recent.lengths.extend(map(int, columns["lengths"].tolist()))
    run.recent.successes.extend(
        None if math.isnan(value) else bool(value) for value in columns["successes"].tolist()
    )
    waiting = {
        name.removeprefix("unfinished."): value.item()
        for name, value in saved.items()
        if name.startswith("unfinished.")
    }
    run.pending = Pending(waiting) if waiting else None
