"""Whether environments keep the contract of `envs.vector`, and can be continued exactly.

They are judged by what they answer: two instances against each other, two at once against one by
one, a used one against a fresh one. Single environments are looked at beneath our layers as well.
"""

import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from itertools import chain, count, pairwise, repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs import AtariConfig, GymnasiumConfig, make_envs
from envs.check.costs import Costs, measure, workers_pay
from envs.check.properties import LOOKED_AT, Finding, findings
from envs.check.random_play import Life, live
from envs.check.strict_wrapper import Complaints
from envs.check.trajectory import Difference, Record, first_difference, play, play_one
from envs.config import EnvConfigError, one_line
from envs.vector import VectorEnv
from envs.workers.in_process import OneByOne
from envs.workers.replay import State, episode_seed

# two are enough to get into each other's way
NUM_ENVS = 2
# what is added to the seed for another one, and how long that is looked at
OTHER_SEED, OTHER_STEPS = 1000, 200
# shares of a life after which it is continued by others
CUTS = (1 / 3, 2 / 3)
# of each of two environments: the last ones, which had most before them
MOST_EPISODES = 10
# a limit that changes nothing, but asks for single environments
NEVER = 2**31


class Seen(NamedTuple):
    """What there was to judge by."""

    steps: int
    """Of each of two environments."""
    episodes: int
    """Of both, to their ends."""
    mean_length: float | None
    """Of those, in steps."""
    longest: int
    """Steps; also of an episode that had not ended."""


class Report(NamedTuple):
    """What was found of environments of one kind. What could not be tried is None."""

    findings: tuple[Finding, ...]
    exact: bool | None = None
    """Whether they can be continued bit for bit."""
    seen: Seen | None = None
    costs: Costs | None = None
    replay_seconds: float | None = None
    """To bring one environment back to the end of the longest episode seen."""
    workers_pay: bool | None = None
    """Whether worker processes would be worthwhile; None also where it is not clear."""

    @property
    def faithful(self) -> bool:
        """Whether nothing breaks the contract."""
        return all(finding.verdict != "broken" for finding in self.findings)


class _Plan(NamedTuple):
    config: GymnasiumConfig | AtariConfig
    seed: int
    found: Complaints


def check(
    config: GymnasiumConfig | AtariConfig, seed: int = 0, episodes: int = 5, steps: int = 2000
) -> Report:
    """What environments of a configuration do, tried in this process.

    Args:
        config: Where they would run does not matter.
        seed: Of the environments and of the random actions.
        episodes: To be seen in each of two environments; a hundred steps in any case.
        steps: After which it is enough, however many episodes have ended.

    Raises:
        EnvConfigError: If they cannot be built as configured.
    """
    update: dict[str, Any] = {"longest_replay": max(config.longest_replay, steps + 1)}
    if isinstance(config, GymnasiumConfig):
        update["workers"] = 0
    plan = _Plan(config.model_copy(update=update), seed, Complaints())
    envs = make_envs(plan.config, NUM_ENVS)
    with closing(envs), warnings.catch_warnings():
        # of resets that failed: they are found by other means
        warnings.simplefilter("ignore", RuntimeWarning)
        life = _first_life(plan, envs, episodes, steps)
        if life is None:
            return Report(findings(plan.found))
        exact = _others_do_the_same(plan, life)
        seen = _seen(life.record)
        if exact and seen.longest > config.longest_replay:
            what = f"but episodes longer than longest_replay={config.longest_replay} begin anew"
            plan.found.add("exact", f"exact, {what}; one had {seen.longest} steps", "note")
        costs = _costs(plan)
    if costs is None:
        return Report(findings(plan.found), exact, seen)
    single = isinstance(envs, OneByOne)
    replayed = single or isinstance(config, AtariConfig)
    again = costs.reset_seconds + seen.longest * costs.step_seconds if replayed else 0.0
    pays = workers_pay(costs) if single else False
    return Report(findings(plan.found), exact, seen, costs, again, pays)


def _first_life(plan: _Plan, envs: VectorEnv, episodes: int, steps: int) -> Life | None:
    """A life with random actions; None if something put an end to it."""
    try:
        life = live(envs, plan.seed, episodes, steps, plan.found)
    except EnvConfigError:
        raise
    # whatever its author did
    except Exception as error:
        plan.found.add("runs", _raised(error))
        return None
    if not life.record.ended().any():
        what = f"no episode ended within {len(life.actions)} steps; --steps makes them more"
        plan.found.add("ends", what, "note")
    elif isinstance(plan.config, AtariConfig):
        # ale-py has no single environment whose last observations could be compared
        plan.found.add("ends", "there is a last observation wherever an episode ended", "ok")
    for name in LOOKED_AT:
        plan.found.add(name, "", "ok")
    return life


def _raised(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


def _others_do_the_same(plan: _Plan, life: Life) -> bool | None:
    """Whether other instances can go on with the life; what else they do is found on the way."""
    found = plan.found
    name = "deterministic"
    try:
        found.add(name, "", "ok")
        cuts = [_cut(life.record, share) for share in CUTS]
        twin, states = _twin(plan, life, cuts)
        difference = first_difference(twin.columns, life.record.numbers(), twin.numbers())
        if difference is not None:
            found.add(name, f"{difference}, differs from what another instance gave")
        name = "alone"
        if not found.broken("deterministic"):
            found.add(name, "", "ok")
            _one_by_one(plan, life)
        name = "seeds"
        _another_seed(plan, life)
        name = "exact"
        if found.broken("deterministic"):
            found.add(name, "not exact, as not even the same seed and actions do", "note")
            return False
        return _continues(plan, life, cuts, states)
    except EnvConfigError:
        raise
    except Exception as error:
        found.add(name, f"another instance raised {_raised(error)}")
        return None


def _cut(record: Record, share: float) -> int:
    """A time amid episodes, in all environments if possible, near this share of the life."""
    ended = record.ended()
    amid = np.flatnonzero(~ended.any(1)) + 1
    wanted = int(share * len(ended))
    # all the episodes may have one step
    return int(amid[np.abs(amid - wanted).argmin()]) if len(amid) else wanted


def _twin(plan: _Plan, life: Life, cuts: list[int]) -> tuple[Record, list[State | None]]:
    """The same life in another instance, and its states on the way."""
    states: list[State | None] = []
    with closing(make_envs(plan.config, NUM_ENVS)) as envs:
        record = Record(envs.reset(plan.seed))
        for time_before, action in enumerate(life.actions):
            if time_before in cuts:
                states.append(envs.state())
            record.add(envs.step(action.copy()))
    return record, states


def _one_by_one(plan: _Plan, life: Life) -> None:
    """Compare every environment with one that is alone: Gymnasium's own, if there is one."""
    if _breaks(plan.found):
        return
    ended = life.record.ended()
    numbers = life.record.numbers()
    for row in range(NUM_ENVS):
        alone = _alone(plan, life, row)
        difference = first_difference(alone.columns, numbers[:, [row]], alone.numbers())
        if difference is None:
            continue
        step, _, what = difference
        at_an_end = step > 0 and ended[step - 1, row] and what not in ("terminated", "truncated")
        name = "ends" if at_an_end else "alone"
        where = Difference(step, row, what)
        plan.found.add(name, f"{where}, differs from that of a single environment")


def _breaks(found: Complaints) -> bool:
    """Whether episodes were lost, so that they are not those of an undisturbed environment."""
    return found.broken("runs") or found.broken("finite")


def _alone(plan: _Plan, life: Life, row: int) -> Record:
    seed, actions = plan.seed + row, life.actions[:, row]
    if isinstance(plan.config, AtariConfig):
        return _from_seed(plan, seed, actions)
    with closing(make_envs(_single(plan.config), 1)) as single:
        assert isinstance(single, OneByOne)
        # ours opens each episode with a seed of its own, unless it steps them all as one batch
        seeds: Iterator[int | None] = (episode_seed(seed, number) for number in count())
        if not isinstance(life.envs, OneByOne):
            seeds = chain([seed], repeat(None))
        return play_one(single.envs[0], seeds, actions)


def _single(config: GymnasiumConfig) -> GymnasiumConfig:
    """The same, but never stepped as one batch."""
    if config.max_episode_steps is not None or not config.id.startswith("fwrl/"):
        return config
    return config.model_copy(update={"max_episode_steps": NEVER})


def _from_seed(plan: _Plan, seed: int, actions: NDArray[Any]) -> Record:
    with closing(make_envs(plan.config, 1)) as envs:
        return play(envs, envs.reset(seed), actions[:, None])


def _another_seed(plan: _Plan, life: Life) -> None:
    actions = life.actions[:OTHER_STEPS]
    with closing(make_envs(plan.config, NUM_ENVS)) as envs:
        other = play(envs, envs.reset(plan.seed + OTHER_SEED), actions)
    if first_difference(other.columns, life.record.numbers(), other.numbers()) is None:
        what = f"another seed gave the same over {len(actions)} steps"
        plan.found.add("seeds", what, "note")
    else:
        plan.found.add("seeds", "", "ok")


def _continues(plan: _Plan, life: Life, cuts: list[int], states: list[State | None]) -> bool | None:
    """Whether fresh and used instances do as the life did, from anywhere on; None if none can."""
    if any(state is None for state in states):
        plan.found.add("exact", "these environments cannot be continued", "note")
        return None
    given = [state for state in states if state is not None]
    what = _episodes_apart(plan, life, given[0]) or _continued(plan, life, cuts, given)
    if what is not None:
        plan.found.add("exact", f"not exact: {what}", "note")
        return False
    plan.found.add("exact", "", "ok")
    return True


def _episodes_apart(plan: _Plan, life: Life, state: State) -> str | None:
    """What goes otherwise where an episode is the first of an instance; None if nothing does.

    Of environments that tell their state by arrays nothing: they play no episode again.
    """
    lives = isinstance(plan.config, AtariConfig) and plan.config.life_loss_terminates
    # where a life is lost, or an episode broke, the next episode has not that seed
    if "episode" not in state or lives or _breaks(plan.found):
        return None
    ended, numbers = life.record.ended(), len(life.actions)
    for row in range(NUM_ENVS):
        ends = (np.flatnonzero(ended[:, row]) + 1).tolist()
        borders = list(pairwise([0, *ends, numbers]))
        for number, (start, end) in list(enumerate(borders))[-MOST_EPISODES:]:
            seed = episode_seed(int(state["seed"][row]), number)
            again = _from_seed(plan, seed, life.actions[start:end, row])
            before = life.record.since(start)[: end - start, [row]]
            difference = first_difference(again.columns, before, again.numbers())
            if difference is not None:
                where = difference._replace(row=row)
                return f"episode {number} in a fresh instance is another: {where}"
    return None


def _continued(plan: _Plan, life: Life, cuts: list[int], states: list[State]) -> str | None:
    """What a used and a fresh instance, in this order, do otherwise when they go on from states."""
    with closing(make_envs(plan.config, NUM_ENVS)) as fresh:
        pairs = [("a used instance", life.envs), ("a fresh instance", fresh)]
        for (who, envs), cut, state in zip(pairs, cuts, states, strict=True):
            kept = {name: array.copy() for name, array in state.items()}
            restored = envs.restore(state)
            if restored.anew.any():
                row = int(restored.anew.argmax())
                return f"{who} did not come to where environment {row} was, after {cut} steps"
            record = play(envs, restored.observation, life.actions[cut:])
            difference = first_difference(record.columns, life.record.since(cut), record.numbers())
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


def _costs(plan: _Plan) -> Costs | None:
    """None where environments break as they are measured."""
    start = time.perf_counter()
    with closing(make_envs(plan.config)) as envs:
        taken = time.perf_counter() - start
        try:
            return measure(envs, taken, plan.seed)
        except EnvConfigError:
            raise
        except Exception as error:
            plan.found.add("runs", _raised(error))
            return None
