"""Single environments of Gymnasium, stepped one after another in this process.

Every episode has a seed of its own, and its actions are recorded, so that a continued run can
replay it. An environment that raises anything, or answers what is no answer, only costs its slot
the episode: the step reports the fault.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import create_empty_array
from jaxtyping import Bool
from numpy.typing import NDArray
from typing_extensions import override

from envs.answers import RESET, STEP, SUCCESS, AnswerError, describe, read_reset, read_step
from envs.config import NO_FAULTS, EnvFailure, summary
from envs.observations import Observations
from envs.vector import (
    DEFAULT_FPS,
    ArrayTree,
    EnvStep,
    Restored,
    VectorEnv,
    check_spaces,
    map_arrays,
    replace_row,
    take_row,
)
from envs.workers.replay import EpisodeLog, check_fit, fingerprints, shown_again

Env: TypeAlias = gymnasium.Env[Any, Any]

# failed resets of a slot in a row before an exception is raised
MOST_FAILED_RESETS = 3
LARGEST_REWARD = float(np.finfo(np.float32).max)


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
        self._observations = Observations(self.observation_space)
        self.log = EpisodeLog(self.num_envs, self.action_space, longest_replay)
        self._makers = makers
        self._name, self._first_slot = name, first_slot
        # slots whose environment raised an error and has to be built again
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
        reward = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), np.bool_)
        observations: list[Any] = [None] * self.num_envs
        infos: list[Mapping[str, Any]] = [{}] * self.num_envs
        faults: dict[int, str] = {}
        for slot, (env, one) in enumerate(zip(self.envs, action, strict=True)):
            try:
                outcome = read_step(env.step(one))
                observations[slot], reward[slot], terminated[slot], truncated[slot] = outcome[:4]
                infos[slot] = outcome[4]
            except NO_FAULTS:
                raise
            # whatever else is raised is the fault of this environment alone
            except BaseException as error:
                self._break(slot, error, faults, observations)
        following = self._together(observations, faults)
        for row, what in (_not_finite(reward) | self._observations.misfits(following)).items():
            faults.setdefault(row, self._message(row, what))
        for row in faults:
            replace_row(following, row, take_row(self._current, row))
            reward[row], terminated[row], truncated[row] = 0, False, True
            infos[row] = {}
        self._current, self._next = following, self._current
        return self._answer(reward.astype(np.float32), terminated, truncated, infos, faults)

    def _break(
        self, slot: int, error: BaseException, faults: dict[int, str], observations: list[Any]
    ) -> None:
        """Note the fault of a slot, whose environment is to be built again."""
        faults[slot] = self._message(slot, describe(error, STEP))
        observations[slot] = take_row(self._current, slot)
        self._broken.add(slot)

    def _together(self, observations: list[Any], faults: dict[int, str]) -> Any:
        """All observations as one batch; one that does not fit the space is a fault of its slot."""
        try:
            self._observations.stack(observations, self._next)
        except NO_FAULTS:
            raise
        except BaseException:
            for slot, observation in enumerate(observations):
                try:
                    self._observations.check(observation)
                except AnswerError as error:
                    self._break(slot, error, faults, observations)
                # types that differ between slots cannot always be stacked
                replace_row(self._next, slot, observations[slot])
        return self._next

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
        try:
            frame: Any = self.envs[0].render()
            return None if frame is None else np.array(frame, np.uint8)
        except NO_FAULTS:
            raise
        except BaseException as error:
            raise EnvFailure(f"{self._name}: render: {summary(error)}") from error

    @override
    def close(self) -> None:
        for slot, env in enumerate(self.envs):
            # an error here must not lose what was computed before
            try:
                env.close()
            except NO_FAULTS:
                raise
            except BaseException as error:
                message = f"{self._name}: slot {self._first_slot + slot}: close: {summary(error)}"
                warnings.warn(message, RuntimeWarning, stacklevel=2)

    @override
    def state(self) -> dict[str, NDArray[Any]] | None:
        return self.snapshot()()

    @override
    def snapshot(self) -> Callable[[], dict[str, NDArray[Any]] | None]:
        recording, shown = self.log.recording(), fingerprints(self._current)
        return lambda: {**recording.state(), "shown": shown.copy()}

    @override
    def restore(self, state: Mapping[str, NDArray[Any]]) -> Restored:
        check_fit(state, {"shown": np.zeros(self.num_envs, np.int64)})
        anew = ~self.log.load(state)
        for slot in range(self.num_envs):
            anew[slot] = anew[slot] or not self._replay(slot)
        # an episode whose replay ends in another observation cannot be continued
        anew |= ~shown_again(self._current, state["shown"])
        for slot in np.flatnonzero(anew).tolist():
            self.log.next(slot)
            replace_row(self._current, slot, self._open(slot, {}))
        return Restored(anew, map_arrays(np.array, self._current))

    def _replay(self, slot: int) -> bool:
        """Replay the recorded episode of a slot; False if it failed or ended early."""
        env = self.envs[slot]
        try:
            observation = read_reset(env.reset(seed=self.log.episode_seed(slot)))
            for action in self.log.actions(slot):
                observation, _, terminated, truncated, _ = read_step(env.step(action))
                if terminated or truncated:
                    return False
            self._observations.check(observation)
            replace_row(self._current, slot, observation)
        except NO_FAULTS:
            raise
        except BaseException:
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
                observation = read_reset(self.envs[slot].reset(seed=self.log.episode_seed(slot)))
                self._observations.check(observation)
            except NO_FAULTS:
                raise
            except BaseException as error:
                what = describe(error, RESET)
                if not isinstance(error, AnswerError):
                    self._broken.add(slot)
            else:
                return observation
            message = self._message(slot, f"reset: {what}")
            faults[slot] = f"{faults[slot]}; then {message}" if slot in faults else message
            self.log.next(slot)
        raise EnvFailure(f"{MOST_FAILED_RESETS} resets in a row failed: {faults[slot]}")

    def _rebuild_if_broken(self, slot: int) -> None:
        if slot in self._broken:
            try:
                self.envs[slot].close()
            except NO_FAULTS:
                raise
            except BaseException:
                pass
            self.envs[slot] = self._makers[slot]()
            self._broken.remove(slot)

    def _message(self, slot: int, what: str) -> str:
        where = f"{self._name}: slot {self._first_slot + slot}, {self.log.describe(slot)}"
        return f"{where}: {what}"


def _room(space: spaces.Space[Any], num_envs: int) -> Any:
    return create_empty_array(space, num_envs, fn=np.zeros)


def _not_finite(reward: NDArray[np.float64]) -> dict[int, str]:
    """A line for each reward that is not a finite number of 32 bits, by row."""
    fine = np.abs(reward) <= LARGEST_REWARD
    if fine.all():
        return {}
    rows = np.flatnonzero(~fine).tolist()
    return {row: f"reward: {reward[row]}, which is not finite" for row in rows}


def _success(infos: Sequence[Mapping[str, Any]], ended: list[int]) -> NDArray[np.bool_] | None:
    for key in SUCCESS:
        if any(key in infos[row] for row in ended):
            success = np.zeros(len(infos), np.bool_)
            success[ended] = [bool(infos[row].get(key, False)) for row in ended]
            return success
    return None
