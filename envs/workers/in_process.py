"""Single environments of Gymnasium, stepped one after another in this process.

Every episode has a seed of its own, and its actions are recorded, so that a continued run can
replay it. An environment that raises an exception only costs its slot the episode: it is built
again, and the step reports the fault.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array
from jaxtyping import Bool
from numpy.typing import NDArray
from typing_extensions import override

from envs.config import EnvConfigError, EnvFailure, summary
from envs.vector import (
    DEFAULT_FPS,
    ArrayTree,
    EnvStep,
    Restored,
    VectorEnv,
    check_spaces,
    leaves,
    map_arrays,
    replace_row,
    take_row,
)
from envs.workers.replay import EpisodeLog, check_fit, fingerprints

Env: TypeAlias = gymnasium.Env[Any, Any]

# failed resets of a slot in a row before an exception is raised
MOST_FAILED_RESETS = 3


class OneByOne(VectorEnv):
    """N environments, stepped in order.

    Each of ``makers`` builds one, also in place of one that failed. At most ``longest_replay``
    actions of an episode are recorded. Messages use ``name`` and count from ``first_slot``.
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], Env]],
        name: str,
        longest_replay: int,
        first_slot: int = 0,
    ) -> None:
        self.envs = [make() for make in makers]
        first = self.envs[0]
        self.num_envs = len(self.envs)
        self.observation_space = first.observation_space
        self.action_space = first.action_space
        check_spaces(self.observation_space, self.action_space, name)
        self.render_fps = float(first.metadata.get("render_fps") or DEFAULT_FPS)
        self.log = EpisodeLog(self.num_envs, self.action_space, longest_replay)
        self._makers = makers
        self._name, self._first_slot = name, first_slot
        # slots whose environment raised an exception and has to be built again
        self._broken: set[int] = set()
        # buffers of the current and the next observations; callers get copies
        self._current = _room(self.observation_space, self.num_envs)
        self._next = _room(self.observation_space, self.num_envs)

    @override
    def reset(self, seed: int | None = None) -> ArrayTree:
        self.log.restart(seed)
        return self._open_all()

    def open(self, seeds: NDArray[np.int64], episodes: NDArray[np.int64]) -> ArrayTree:
        """Open the episodes of these numbers in slots with these seeds."""
        self.log.seed, self.log.episode = seeds.copy(), episodes.copy()
        self.log.steps[:] = 0
        return self._open_all()

    def _open_all(self) -> ArrayTree:
        faults: dict[int, str] = {}
        for slot in range(self.num_envs):
            replace_row(self._current, slot, self._open(slot, faults))
        for message in faults.values():
            warnings.warn(message, RuntimeWarning, stacklevel=3)
        return map_arrays(np.array, self._current)

    @override
    def step(self, action: NDArray[Any]) -> EnvStep:
        action = np.asarray(action, self.action_space.dtype)
        self.log.record(action)
        reward = np.zeros(self.num_envs, np.float32)
        terminated, truncated = np.zeros((2, self.num_envs), np.bool_)
        observations: list[Any] = [None] * self.num_envs
        infos: list[dict[str, Any]] = [{}] * self.num_envs
        faults: dict[int, str] = {}
        for slot, (env, one) in enumerate(zip(self.envs, action, strict=True)):
            try:
                outcome = env.step(one)
                observations[slot], reward[slot], terminated[slot], truncated[slot] = outcome[:4]
                infos[slot] = outcome[4]
            except EnvConfigError:
                raise
            # any exception is the fault of this environment alone
            except Exception as error:
                faults[slot] = self._message(slot, summary(error))
                observations[slot] = take_row(self._current, slot)
                self._broken.add(slot)
        following = self._together(observations, faults)
        for row, what in _not_finite(following, reward).items():
            faults.setdefault(row, self._message(row, what))
        for row in faults:
            replace_row(following, row, take_row(self._current, row))
            reward[row], terminated[row], truncated[row] = 0, False, True
            infos[row] = {}
        self._current, self._next = following, self._current
        return self._answer(reward, terminated, truncated, infos, faults)

    def _together(self, observations: list[Any], faults: dict[int, str]) -> Any:
        """All observations as one batch; one that does not fit the space is a fault of its slot."""
        try:
            return concatenate(self.observation_space, observations, self._next)
        except Exception:
            for slot, observation in enumerate(observations):
                what = self._misfit(observation)
                if what is not None:
                    faults[slot] = self._message(slot, what)
                    observations[slot] = take_row(self._current, slot)
                    self._broken.add(slot)
            return concatenate(self.observation_space, observations, self._next)

    def _misfit(self, observation: Any) -> str | None:
        """The reason why an observation cannot be a row of a batch; None if it can."""
        try:
            concatenate(self.observation_space, [observation], _room(self.observation_space, 1))
        except Exception as error:
            return f"an observation that does not fit the space ({summary(error)})"
        return None

    def _answer(
        self,
        reward: NDArray[np.float32],
        terminated: Bool[np.ndarray, " N"],
        truncated: Bool[np.ndarray, " N"],
        infos: Sequence[Mapping[str, Any]],
        faults: dict[int, str],
    ) -> EnvStep:
        """Open the next episode wherever one ended, and return the step."""
        ended = np.flatnonzero(terminated | truncated).tolist()
        final_observation = map_arrays(np.array, self._current) if ended else None
        success = _success(infos, ended)
        for row in ended:
            self.log.next(row)
            replace_row(self._current, row, self._open(row, faults))
        observation = map_arrays(np.array, self._current)
        return EnvStep(
            observation, reward, terminated, truncated, final_observation, success, faults
        )

    @override
    def render(self) -> NDArray[np.uint8] | None:
        if self.envs[0].render_mode != "rgb_array":
            return None
        # rendering all to show the first would be a waste
        frame: Any = self.envs[0].render()
        return None if frame is None else np.array(frame, np.uint8)

    @override
    def close(self) -> None:
        for slot, env in enumerate(self.envs):
            # an error here must not lose what was computed before
            try:
                env.close()
            except Exception as error:
                message = f"{self._name}: slot {self._first_slot + slot}: close: {summary(error)}"
                warnings.warn(message, RuntimeWarning, stacklevel=2)

    @override
    def state(self) -> dict[str, NDArray[Any]] | None:
        return {**self.log.state(), "shown": fingerprints(self._current)}

    @override
    def restore(self, state: Mapping[str, NDArray[Any]]) -> Restored:
        check_fit(state, {"shown": np.zeros(self.num_envs, np.int64)})
        anew = ~self.log.load(state)
        for slot in range(self.num_envs):
            anew[slot] = anew[slot] or not self._replay(slot)
        # an episode whose replay ends in another observation cannot be continued
        anew |= fingerprints(self._current) != state["shown"]
        for slot in np.flatnonzero(anew).tolist():
            self.log.next(slot)
            replace_row(self._current, slot, self._open(slot, {}))
        return Restored(anew, map_arrays(np.array, self._current))

    def _replay(self, slot: int) -> bool:
        """Replay the recorded episode of a slot; False if it failed or ended early."""
        env = self.envs[slot]
        try:
            observation, _ = env.reset(seed=self.log.episode_seed(slot))
            for action in self.log.actions(slot):
                observation, _, terminated, truncated, _ = env.step(action)
                if terminated or truncated:
                    return False
            replace_row(self._current, slot, observation)
        except EnvConfigError:
            raise
        except Exception:
            self._broken.add(slot)
            return False
        return True

    def _open(self, slot: int, faults: dict[int, str]) -> Any:
        """The first observation of the slot's episode, or of a later one if its reset fails.

        Failures are added to ``faults``.

        Raises:
            EnvFailure: After ``MOST_FAILED_RESETS``.
        """
        for _ in range(MOST_FAILED_RESETS):
            try:
                self._rebuild_if_broken(slot)
                observation, _ = self.envs[slot].reset(seed=self.log.episode_seed(slot))
            except EnvConfigError:
                raise
            except Exception as error:
                what = summary(error)
                self._broken.add(slot)
            else:
                what = self._misfit(observation)
                if what is None and all(_is_finite(np.asarray(x)) for x in leaves(observation)):
                    return observation
                what = what or "an observation that is not finite"
            message = self._message(slot, f"reset: {what}")
            faults[slot] = f"{faults[slot]}; then {message}" if slot in faults else message
            self.log.next(slot)
        raise EnvFailure(f"{MOST_FAILED_RESETS} resets in a row failed: {faults[slot]}")

    def _rebuild_if_broken(self, slot: int) -> None:
        if slot in self._broken:
            with suppress(Exception):
                self.envs[slot].close()
            self.envs[slot] = self._makers[slot]()
            self._broken.remove(slot)

    def _message(self, slot: int, what: str) -> str:
        where = f"{self._name}: slot {self._first_slot + slot}, {self.log.describe(slot)}"
        return f"{where}: {what}"


def _room(space: spaces.Space[Any], num_envs: int) -> Any:
    return create_empty_array(space, num_envs, fn=np.zeros)


def _not_finite(observation: ArrayTree, reward: NDArray[np.float32]) -> dict[int, str]:
    """Messages about infinity and NaN, by row."""
    found: dict[int, str] = {}
    parts = [("an observation", leaf) for leaf in leaves(observation)] + [("a reward", reward)]
    for what, leaf in parts:
        if not _is_finite(leaf):
            rows = [row for row in range(len(leaf)) if not _is_finite(leaf[[row]])]
            found = dict.fromkeys(rows, f"{what} that is not finite") | found
    return found


def _is_finite(leaf: NDArray[Any]) -> bool:
    return leaf.dtype.kind != "f" or bool(np.isfinite(leaf).all())


def _success(infos: Sequence[Mapping[str, Any]], ended: list[int]) -> NDArray[np.bool_] | None:
    for key in ("is_success", "success"):
        if any(key in infos[row] for row in ended):
            success = np.zeros(len(infos), np.bool_)
            success[ended] = [bool(infos[row].get(key, False)) for row in ended]
            return success
    return None
