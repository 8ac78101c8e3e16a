"""Environments of many agents that act together, as a vector environment with a slot per agent.

A copy of the environment is stepped as a single environment of Gymnasium, whose action and
observation hold those of all agents. Faults, seeds and replay are then those of single
environments. ``AgentSlots`` takes the copies apart again: one row for each agent, whose episode is
the life of that agent.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, create_empty_array
from jaxtyping import Bool
from numpy.typing import NDArray
from typing_extensions import override

from envs.answers import RESET, SUCCESS, AnswerError, check_info, read_reset, read_step, shown
from envs.config import EnvConfigError
from envs.observations import Observations
from envs.vector import (
    ArrayTree,
    EnvStep,
    Restored,
    VectorEnv,
    check_spaces,
    map_arrays,
    replace_row,
)
from envs.workers.in_process import OneByOne
from envs.wrappers import MASK, masked_space, with_mask

# PettingZoo's, or anything with its methods; agents may have names of any kind
ParallelEnv: TypeAlias = Any
# answers to "was the task solved?"
NO, YES, NOT_SAID = range(3)
PARTS = ("observations", "rewards", "terminations", "truncations", "infos")
STEP = f"step should return five dictionaries by agent: {', '.join(PARTS)}"


class JointEnv(gymnasium.Env[Any, Any]):
    """All agents of a parallel environment as one agent; row i is that of ``possible_agents[i]``.

    An observation holds what every agent sees next (``observation``), what it saw last if it has
    just left (``final``), its part of the step's outcome, whether it acts next (``present``), and
    the number of steps so far (``clock``). Where there is no agent, all is zero, or the lowest that
    the space allows, and every action is allowed. The episode ends when no agent is left.
    """

    def __init__(
        self, env: ParallelEnv, name: str, max_episode_steps: int | None, action_mask: bool
    ) -> None:
        """The agents of ``env`` together.

        Args:
            env: The parallel environment.
            name: How messages call it.
            max_episode_steps: Steps after which the agents still there are truncated.
            action_mask: Whether to add the masks in the infos to the observations.

        Raises:
            EnvConfigError: If its agents are not known beforehand, or have different spaces.
        """
        self.env, self._name, self._limit = env, name, max_episode_steps
        self._adds_mask = action_mask
        self.metadata = dict(getattr(env, "metadata", {}))
        self.render_mode = getattr(env, "render_mode", None)
        agents = getattr(env, "possible_agents", None)
        if not agents:
            raise EnvConfigError(f"{name}: has no possible_agents; they should be known beforehand")
        self.agents: list[Any] = list(agents)
        self.one_action = self._common("action", env.action_space)
        seen = self._common("observation", env.observation_space)
        check_spaces(seen, self.one_action, name)
        self.one_observation = _with_binary_mask(seen)
        if action_mask:
            self.one_observation = masked_space(self.one_observation, self.one_action)
        self._observations = Observations(self.one_observation)
        count = len(self.agents)
        self.action_space = batch_space(self.one_action, count)
        batch, flags = batch_space(self.one_observation, count), spaces.MultiBinary(count)
        self.observation_space = spaces.Dict(
            {
                "observation": batch,
                "final": batch,
                "reward": spaces.Box(-np.inf, np.inf, (count,), np.float32),
                "terminated": flags,
                "truncated": flags,
                "success": spaces.MultiDiscrete([3] * count),
                "present": flags,
                "clock": spaces.Box(0, np.iinfo(np.int64).max, (1,), np.int64),
            }
        )
        self._empty = self._without_agents()
        self._clock = 0
        self._present = np.zeros(count, np.bool_)

    def _common(self, kind: str, space_of: Callable[[Any], spaces.Space[Any]]) -> spaces.Space[Any]:
        """The space that all agents have."""
        first, *others = self.agents
        for other in others:
            if space_of(other) != space_of(first):
                raise EnvConfigError(
                    f"{self._name}: agents {first!r} and {other!r} have different {kind} spaces, "
                    f"{space_of(first)} and {space_of(other)}; one policy needs equal ones"
                )
        return space_of(first)

    @override
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        answer = self.env.reset(seed=seed, options=options)
        observations = _by_agent("observations", read_reset(answer), RESET)
        infos = answer[1] or {}
        self._clock, joint = 0, map_arrays(np.copy, self._empty)
        for row, agent in self._listed():
            replace_row(joint["observation"], row, self._seen(agent, observations, infos))
            joint["present"][row] = 1
        return self._with_clock(joint), {}

    @override
    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        acting = {agent: action[row] for row, agent in self._listed()}
        parts = _five(self.env.step(acting))
        self._clock += 1
        is_late = self._limit is not None and self._clock >= self._limit
        joint, listed = map_arrays(np.copy, self._empty), dict(self._listed())
        for row, agent in enumerate(self.agents):
            if self._present[row]:
                leaves = self._add_outcome(joint, row, parts, is_late)
                if not leaves and row not in listed:
                    raise AnswerError(f"agent {agent!r}: left, but was not terminated or truncated")
            else:
                leaves = is_late or any(part.get(agent, False) for part in parts[2:4])
            if row in listed and not leaves:
                replace_row(joint["observation"], row, self._seen(agent, parts[0], parts[4]))
                joint["present"][row] = 1
        joint = self._with_clock(joint)
        return joint, 0.0, not self._present.any(), False, {}

    def _add_outcome(
        self, joint: dict[str, Any], row: int, parts: Sequence[Mapping[Any, Any]], is_late: bool
    ) -> bool:
        """Write what an agent got for its action; returns whether it leaves."""
        agent = self.agents[row]
        for name, part in zip(PARTS[:4], parts, strict=False):
            if agent not in part:
                raise AnswerError(f"{name}: have no agent {agent!r}, who acted")
        values = [part[agent] for part in parts[:4]]
        try:
            _, reward, terminated, truncated, info = read_step((*values, parts[4].get(agent, {})))
        except AnswerError as error:
            raise AnswerError(f"agent {agent!r}: {error}") from None
        truncated = truncated or (is_late and not terminated)
        joint["reward"][row] = reward
        joint["terminated"][row], joint["truncated"][row] = terminated, truncated
        if terminated or truncated:
            said = next((bool(info[key]) for key in SUCCESS if key in info), None)
            joint["success"][row] = NOT_SAID if said is None else YES if said else NO
            replace_row(joint["final"], row, self._seen(agent, parts[0], parts[4]))
        return terminated or truncated

    def _listed(self) -> list[tuple[int, Any]]:
        """Row and name of the agents that act next, as the environment lists them."""
        listed = list(self.env.agents)
        for agent in listed:
            if agent not in self.agents:
                raise AnswerError(f"agents: {agent!r} is not one of possible_agents")
        return [(row, agent) for row, agent in enumerate(self.agents) if agent in listed]

    def _seen(self, agent: Any, observations: Mapping[Any, Any], infos: Mapping[Any, Any]) -> Any:
        """The observation of an agent, checked."""
        if agent not in observations:
            raise AnswerError(f"observations: have no agent {agent!r}, who acts next")
        observation = observations[agent]
        try:
            if self._adds_mask:
                info = infos.get(agent, {})
                check_info(info)
                observation = with_mask(observation, info, self._name)
            self._observations.check(observation)
        except AnswerError as error:
            raise AnswerError(f"agent {agent!r}: {error}") from None
        return observation

    def _without_agents(self) -> dict[str, Any]:
        """The observation of a step with no agent before or after it."""
        count, nobody = len(self.agents), _nobody(self.one_observation)
        empty: dict[str, Any] = {}
        for key, space in cast(spaces.Dict, self.observation_space).items():
            if key in ("observation", "final"):
                empty[key] = create_empty_array(self.one_observation, count, fn=np.zeros)
                for row in range(count):
                    replace_row(empty[key], row, nobody)
            else:
                empty[key] = np.zeros(cast(Any, space).shape, space.dtype)
        empty["success"][:] = NOT_SAID
        return empty

    def _with_clock(self, joint: dict[str, Any]) -> dict[str, Any]:
        joint["clock"][:] = self._clock
        self._present = joint["present"] == 1
        return joint

    @override
    def render(self) -> Any:
        # as PettingZoo's base class does where nothing is drawn
        with suppress(NotImplementedError):
            return self.env.render()
        return None

    @override
    def close(self) -> None:
        self.env.close()


class AgentSlots(VectorEnv):
    """Copies of an environment of many agents, with a slot for each agent of each copy.

    The slots of a copy are beside one another, in the order of its ``possible_agents``. An agent's
    episode ends when it leaves. Until it is there again, or a new episode of the copy begins, its
    slot is ``vacant``: its actions are ignored, and nothing is seen and earned. The last step of a
    vacant slot is marked as terminated, so that the memory of who arrives begins anew.
    """

    def __init__(self, makers: Sequence[Callable[[], JointEnv]], name: str, longest: int) -> None:
        """The copies that ``makers`` make.

        Args:
            makers: Each makes one copy, also in place of one that failed.
            name: How messages call the environment.
            longest: Most actions of an episode that are recorded.
        """
        self.copies = OneByOne(makers, name, longest)
        first = cast(JointEnv, self.copies.envs[0])
        self.observation_space, self.action_space = first.one_observation, first.one_action
        self.num_agents = len(first.agents)
        self.num_envs = self.copies.num_envs * self.num_agents
        self.render_fps = self.copies.render_fps
        self._joint: Any = None

    @override
    def reset(self, seed: int | None = None) -> ArrayTree:
        self._joint = self.copies.reset(seed)
        return _flat(self._joint["observation"])

    @override
    def step(self, action: NDArray[Any]) -> EnvStep:
        shape = (self.copies.num_envs, self.num_agents, *(self.action_space.shape or ()))
        step = self.copies.step(np.asarray(action).reshape(shape))
        before, after = self._joint, cast(Any, step.observation)
        self._joint = joint = after
        if step.final_observation is not None:
            joint = _where(step.terminated | step.truncated, step.final_observation, after)
        # a copy whose step failed shows again what it showed before
        failed = joint["clock"] == before["clock"]
        present = before["present"] == 1
        acted = present & ~failed
        terminated = acted & (joint["terminated"] == 1)
        truncated = acted & (joint["truncated"] == 1) | present & failed
        arrives = ~present & (after["present"] == 1)
        final = _where(failed[:, 0], before["observation"], joint["final"])
        leaves = terminated | truncated
        return EnvStep(
            _flat(after["observation"]),
            np.where(acted, joint["reward"], np.float32(0)).reshape(-1),
            (terminated | arrives).reshape(-1),
            truncated.reshape(-1),
            _flat(final) if (leaves | arrives).any() else None,
            _success(joint["success"], acted & leaves),
            self._faults(step.faults, present),
            None if present.all() else (~present).reshape(-1),
        )

    def _faults(self, faults: Mapping[int, str], present: NDArray[np.bool_]) -> dict[int, str]:
        """The fault of a copy costs all agents in it their episodes."""
        return {
            copy * self.num_agents + agent: message
            for copy, message in faults.items()
            for agent in np.flatnonzero(present[copy]).tolist()
        }

    @override
    def render(self) -> NDArray[np.uint8] | None:
        return self.copies.render()

    @override
    def state(self) -> dict[str, NDArray[Any]] | None:
        return self.copies.state()

    @override
    def snapshot(self) -> Callable[[], dict[str, NDArray[Any]] | None]:
        return self.copies.snapshot()

    @override
    def restore(self, state: Mapping[str, NDArray[Any]]) -> Restored:
        anew, self._joint = self.copies.restore(state)
        return Restored(np.repeat(anew, self.num_agents), _flat(self._joint["observation"]))

    @override
    def close(self) -> None:
        self.copies.close()


def _five(answer: Any) -> Sequence[Mapping[Any, Any]]:
    if not isinstance(answer, tuple | list) or len(cast(Any, answer)) != 5:
        raise AnswerError(f"it returned {shown(answer)}; {STEP}")
    parts = zip(PARTS, cast(Sequence[Any], answer), strict=True)
    return [_by_agent(name, part, STEP) for name, part in parts]


def _by_agent(name: str, part: Any, expected: str) -> Mapping[Any, Any]:
    if not isinstance(part, Mapping):
        raise AnswerError(f"{name}: {shown(part)}; it should be a dictionary by agent; {expected}")
    return cast(Mapping[Any, Any], part)


def _with_binary_mask(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The space with its action mask, which PettingZoo's games give as a Box, as MultiBinary."""
    mask = space.spaces.get(MASK) if isinstance(space, spaces.Dict) else None
    if not isinstance(mask, spaces.Box) or len(mask.shape) != 1:
        return space
    return spaces.Dict({**cast(Any, space).spaces, MASK: spaces.MultiBinary(mask.shape[0])})


def _nobody(space: spaces.Space[Any], key: str = "") -> Any:
    """The view from a slot without an agent: zeros, or the lowest numbers that are allowed."""
    match space:
        case spaces.Dict():
            return {key: _nobody(part, key) for key, part in space.spaces.items()}
        case spaces.Tuple():
            return tuple(_nobody(part) for part in space.spaces)
        case spaces.Discrete() | spaces.MultiDiscrete():
            return np.asarray(space.start, space.dtype)
        case spaces.Box():
            return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
        case _:
            return np.full(space.shape or (), key == MASK, space.dtype)


def _flat(tree: Any) -> Any:
    """Arrays over copies and agents as arrays over both."""

    def flat(leaf: NDArray[Any]) -> NDArray[Any]:
        return leaf.reshape(-1, *leaf.shape[2:])

    return map_arrays(flat, tree)


def _where(copies: Bool[np.ndarray, " C"], yes: Any, no: Any) -> Any:
    """``yes`` in these copies, ``no`` in the others."""

    def choose(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
        return np.where(copies.reshape(-1, *[1] * (one.ndim - 1)), one, other)

    return map_arrays(choose, yes, no)


def _success(said: NDArray[np.int64], leaves: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    if not (leaves & (said != NOT_SAID)).any():
        return None
    return (leaves & (said == YES)).reshape(-1)
