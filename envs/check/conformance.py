"""Check whether environments keep the contract of `envs.vector`, and can be continued exactly.

The check plays them with random actions, then compares instances: one with another, two stepped
together with each alone, a used one with a fresh one.
"""

import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from itertools import chain, count, pairwise, repeat
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs import (
    AnyEnvConfig,
    AtariConfig,
    GymnasiumConfig,
    OnDeviceConfig,
    PettingZooConfig,
    make_envs,
)
from envs.check.properties import LOOKED_AT, Finding, findings
from envs.check.random_play import Trajectory, play_randomly
from envs.check.strict_wrapper import Complaints
from envs.check.timing import Timing, measure, workers_pay
from envs.check.trajectory import Difference, Record, first_difference, play, play_one
from envs.config import NO_FAULTS, summary
from envs.vector import VectorEnv
from envs.workers.in_process import OneByOne
from envs.workers.replay import State, episode_seed

# two are enough to interfere with each other
NUM_ENVS = 2
# added to the seed for a comparison with another seed, and the steps of that comparison
OTHER_SEED, OTHER_STEPS = 1000, 200
# fractions of a trajectory after which other instances continue it
CUTS = (1 / 3, 2 / 3)
# in each environment; the last ones, as most could leak into them from earlier episodes
MOST_EPISODES = 10
# a limit that truncates nothing, but makes Gymnasium build single environments
NEVER = 2**31


class Seen(NamedTuple):
    """The amount of play that the verdicts rest on, in two environments."""

    steps: int
    """Steps in each environment."""
    episodes: int
    """Episodes that ended, in both together."""
    mean_length: float | None
    """Steps of those episodes on average."""
    longest: int
    """Steps of the longest episode, also if it did not end."""


class Report(NamedTuple):
    """All that was found; a part that could not be tried is None."""

    findings: tuple[Finding, ...]
    exact: bool | None = None
    """Whether the environments can be continued bit for bit."""
    seen: Seen | None = None
    costs: Timing | None = None
    replay_seconds: float | None = None
    """Estimated time to replay the longest episode seen in one environment."""
    workers_pay: bool | None = None
    """Whether worker processes would pay; None also if that is not clear."""
    observation_space: spaces.Space[Any] | None = None
    """The space of one environment's observations."""

    @property
    def faithful(self) -> bool:
        """Whether nothing breaks the contract."""
        return all(finding.verdict != "broken" for finding in self.findings)


class _Plan(NamedTuple):
    config: AnyEnvConfig
    seed: int
    found: Complaints


def check(config: AnyEnvConfig, seed: int = 0, episodes: int = 5, steps: int = 2000) -> Report:
    """Check the environments of a configuration, in this process.

    Args:
        config: The environments; the number of workers is ignored.
        seed: The seed of the environments and of the random actions.
        episodes: Episodes to play in each of two environments, and at least a hundred steps.
        steps: The most steps to play, however few episodes have ended.

    Raises:
        EnvConfigError: If the environments cannot be built as configured.
    """
    longest = None if isinstance(config, OnDeviceConfig) else config.longest_replay
    update: dict[str, Any] = {} if longest is None else {"longest_replay": max(longest, steps + 1)}
    if isinstance(config, GymnasiumConfig):
        update["workers"] = 0
    plan = _Plan(config.model_copy(update=update), seed, Complaints())
    envs = make_envs(plan.config, NUM_ENVS)
    with closing(envs), warnings.catch_warnings():
        # warnings of failed resets, which are found by other means
        warnings.simplefilter("ignore", RuntimeWarning)
        trajectory = _play_randomly(plan, envs, episodes, steps)
        if trajectory is None:
            return Report(findings(plan.found), observation_space=envs.observation_space)
        exact = _others_do_the_same(plan, trajectory)
        seen = _seen(trajectory.record)
        if exact and longest is not None and seen.longest > longest:
            what = f"but episodes longer than longest_replay={longest} begin anew"
            plan.found.add("exact", f"exact, {what}; one had {seen.longest} steps", "note")
        costs = _costs(plan)
    if costs is None:
        return Report(findings(plan.found), exact, seen, observation_space=envs.observation_space)
    single = isinstance(envs, OneByOne)
    replayed = single or isinstance(config, AtariConfig)
    again = costs.reset_seconds + seen.longest * costs.step_seconds if replayed else 0.0
    pays = workers_pay(costs) if single else False
    space = envs.observation_space
    return Report(findings(plan.found), exact, seen, costs, again, pays, space)


def _play_randomly(plan: _Plan, envs: VectorEnv, episodes: int, steps: int) -> Trajectory | None:
    """A trajectory of random actions; None if an exception ended it."""
    try:
        trajectory = play_randomly(envs, plan.seed, episodes, steps, plan.found)
    except NO_FAULTS:
        raise
    # an environment may raise anything
    except BaseException as error:
        plan.found.add("runs", summary(error))
        return None
    if not trajectory.record.ended().any():
        what = f"no episode ended within {len(trajectory.actions)} steps; --steps makes them more"
        plan.found.add("ends", what, "note")
    elif not isinstance(plan.config, GymnasiumConfig):
        # ale-py has no single environment whose last observations could be compared
        plan.found.add("ends", "there is a last observation wherever an episode ended", "ok")
    for name in LOOKED_AT:
        plan.found.add(name, "", "ok")
    return trajectory


def _others_do_the_same(plan: _Plan, trajectory: Trajectory) -> bool | None:
    """Whether other instances can continue the trajectory; compares them on the way."""
    found = plan.found
    name = "deterministic"
    try:
        found.add(name, "", "ok")
        cuts = [_cut(trajectory.record, share) for share in CUTS]
        twin, states = _twin(plan, trajectory, cuts)
        difference = first_difference(twin.columns, trajectory.record.numbers(), twin.numbers())
        if difference is not None:
            found.add(name, f"{difference}, differs from what another instance gave")
        name = "alone"
        if not found.broken("deterministic"):
            found.add(name, "", "ok")
            _one_by_one(plan, trajectory)
        name = "seeds"
        _another_seed(plan, trajectory)
        name = "exact"
        if found.broken("deterministic"):
            found.add(name, "not exact, as not even the same seed and actions do", "note")
            return False
        return _continues(plan, trajectory, cuts, states)
    except NO_FAULTS:
        raise
    except BaseException as error:
        found.add(name, f"another instance raised {summary(error)}")
        return None


def _cut(record: Record, share: float) -> int:
    """A time amid episodes, in all environments if possible, near this share of the trajectory."""
    ended = record.ended()
    amid = np.flatnonzero(~ended.any(1)) + 1
    wanted = int(share * len(ended))
    # there is none if every episode has one step
    return int(amid[np.abs(amid - wanted).argmin()]) if len(amid) else wanted


def _twin(
    plan: _Plan, trajectory: Trajectory, cuts: list[int]
) -> tuple[Record, list[State | None]]:
    """The same actions in another instance: its recording, and its states at the cuts."""
    states: list[State | None] = []
    with closing(make_envs(plan.config, NUM_ENVS)) as envs:
        record = Record(envs.reset(plan.seed))
        for time_before, action in enumerate(trajectory.actions):
            if time_before in cuts:
                states.append(envs.state())
            record.add(envs.step(action.copy()))
    return record, states


def _one_by_one(plan: _Plan, trajectory: Trajectory) -> None:
    """Compare every environment with one of its own, made by Gymnasium alone if possible."""
    if _breaks(plan.found):
        return
    ended = trajectory.record.ended()
    numbers = trajectory.record.numbers()
    # an environment of many agents has a row for each of them
    share = ended.shape[1] // NUM_ENVS
    for number in range(NUM_ENVS):
        rows = slice(number * share, (number + 1) * share)
        alone = _alone(plan, plan.seed + number, trajectory, rows)
        difference = first_difference(alone.columns, numbers[:, rows], alone.numbers())
        if difference is None:
            continue
        step, row, what = difference
        row += rows.start
        at_an_end = step > 0 and ended[step - 1, row] and what not in ("terminated", "truncated")
        name = "ends" if at_an_end else "alone"
        where = Difference(step, row, what)
        plan.found.add(name, f"{where}, differs from that of a single environment")


def _breaks(found: Complaints) -> bool:
    """Whether faults cost episodes, which therefore differ from those of a sound environment."""
    return found.broken("runs") or found.broken("finite")


def _alone(plan: _Plan, seed: int, trajectory: Trajectory, rows: slice) -> Record:
    actions = trajectory.actions[:, rows]
    if not isinstance(plan.config, GymnasiumConfig):
        return _from_seed(plan, seed, actions)
    with closing(make_envs(_single(plan.config), 1)) as single:
        assert isinstance(single, OneByOne)
        # `OneByOne` gives each episode a seed of its own, batched tasks only the first one
        seeds: Iterator[int | None] = (episode_seed(seed, number) for number in count())
        if not isinstance(trajectory.envs, OneByOne):
            seeds = chain([seed], repeat(None))
        return play_one(single.envs[0], seeds, actions[:, 0])


def _single(config: GymnasiumConfig) -> GymnasiumConfig:
    """The same environments, never stepped as one batch."""
    if config.max_episode_steps is not None or not config.id.startswith("fwrl/"):
        return config
    return config.model_copy(update={"max_episode_steps": NEVER})


def _from_seed(plan: _Plan, seed: int, actions: NDArray[Any]) -> Record:
    with closing(make_envs(plan.config, 1)) as envs:
        return play(envs, envs.reset(seed), actions)


def _another_seed(plan: _Plan, trajectory: Trajectory) -> None:
    actions = trajectory.actions[:OTHER_STEPS]
    with closing(make_envs(plan.config, NUM_ENVS)) as envs:
        other = play(envs, envs.reset(plan.seed + OTHER_SEED), actions)
    if first_difference(other.columns, trajectory.record.numbers(), other.numbers()) is None:
        what = f"another seed gave the same over {len(actions)} steps"
        plan.found.add("seeds", what, "note")
    else:
        plan.found.add("seeds", "", "ok")


def _continues(
    plan: _Plan, trajectory: Trajectory, cuts: list[int], states: list[State | None]
) -> bool | None:
    """Whether fresh and used instances continue alike from any state; None if none can continue."""
    if any(state is None for state in states):
        plan.found.add("exact", "these environments cannot be continued", "note")
        return None
    given = [state for state in states if state is not None]
    what = _episodes_apart(plan, trajectory, given[0]) or _continued(plan, trajectory, cuts, given)
    if what is not None:
        plan.found.add("exact", f"not exact: {what}", "note")
        return False
    plan.found.add("exact", "", "ok")
    return True


def _episodes_apart(plan: _Plan, trajectory: Trajectory, state: State) -> str | None:
    """The first difference between episodes and their replays in fresh instances, in words.

    Environments whose state is in arrays replay no episodes, so there is nothing to compare.
    """
    lives = isinstance(plan.config, AtariConfig) and plan.config.life_loss_terminates
    agents = isinstance(plan.config, PettingZooConfig)
    # where a life is lost, or an episode broke, the next episode has another seed
    # and of many agents nobody sees when all have left
    if "episode" not in state or lives or agents or _breaks(plan.found):
        return None
    ended, numbers = trajectory.record.ended(), len(trajectory.actions)
    for row in range(NUM_ENVS):
        ends = (np.flatnonzero(ended[:, row]) + 1).tolist()
        borders = list(pairwise([0, *ends, numbers]))
        for number, (start, end) in list(enumerate(borders))[-MOST_EPISODES:]:
            seed = episode_seed(int(state["seed"][row]), number)
            again = _from_seed(plan, seed, trajectory.actions[start:end, [row]])
            before = trajectory.record.since(start)[: end - start, [row]]
            difference = first_difference(again.columns, before, again.numbers())
            if difference is not None:
                where = difference._replace(row=row)
                return f"episode {number} in a fresh instance is another: {where}"
    return None


def _continued(
    plan: _Plan, trajectory: Trajectory, cuts: list[int], states: list[State]
) -> str | None:
    """The first difference when a used, then a fresh instance continue from a state, in words."""
    with closing(make_envs(plan.config, NUM_ENVS)) as fresh:
        pairs = [("a used instance", trajectory.envs), ("a fresh instance", fresh)]
        for (who, envs), cut, state in zip(pairs, cuts, states, strict=True):
            kept = {name: array.copy() for name, array in state.items()}
            restored = envs.restore(state)
            if restored.anew.any():
                row = int(restored.anew.argmax())
                return f"{who} did not come to where environment {row} was, after {cut} steps"
            record = play(envs, restored.observation, trajectory.actions[cut:])
            difference = first_difference(
                record.columns, trajectory.record.since(cut), record.numbers()
            )
            if difference is not None:
                return f"{who} went on otherwise: {difference}"
            if any(not np.array_equal(array, kept[name]) for name, array in state.items()):
                plan.found.add("arrays", "going on from a state changed its arrays")
    return None


def _seen(record: Record) -> Seen:
    ended = record.ended()
    lengths: list[int] = []
    longest = 0
    for row in range(NUM_ENVS):
        ends = np.flatnonzero(ended[:, row])
        borders = np.concatenate([[-1], ends, [len(ended) - 1]])
        lengths += np.diff(borders[:-1]).tolist()
        longest = max(longest, int(np.diff(borders).max()))
    mean = float(np.mean(lengths)) if lengths else None
    return Seen(len(ended), len(lengths), mean, longest)


def _costs(plan: _Plan) -> Timing | None:
    """The timing of newly built environments; None if they raise an exception."""
    start = time.perf_counter()
    with closing(make_envs(plan.config)) as envs:
        taken = time.perf_counter() - start
        try:
            return measure(envs, taken, plan.seed)
        except NO_FAULTS:
            raise
        except BaseException as error:
            plan.found.add("runs", summary(error))
            return None
