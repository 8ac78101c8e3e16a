"""Environments spread over worker processes, each of which steps its share at the same time.

Worthwhile if a step takes much longer than a message through a pipe (about 0.1 ms). A worker that
ends or hangs is replaced, and its episodes are lost.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from envs.config import EnvConfigError, EnvFailure
from envs.vector import ArrayTree, EnvStep, Restored, VectorEnv, map_arrays
from envs.workers.in_process import MOST_FAILED_RESETS
from envs.workers.process import Opening, Request, Share, Worker, WorkerLostError
from envs.workers.replay import EpisodeLog, episode_seed, fingerprints, join_states, split_state

# least time limit for a new process to import packages and build its environments
START_SECONDS = 120.0
# time for all workers together to end by themselves
GRACE_SECONDS = 3.0


def in_workers(
    makers: Sequence[Callable[[], VectorEnv]], name: str = "environments", timeout: float = 120.0
) -> VectorEnv:
    """The environments of all ``makers``, each maker's in a process of its own.

    A worker that does not answer within ``timeout`` seconds is replaced; messages use ``name``.

    Raises:
        EnvConfigError: If a maker raised it.
        EnvFailure: If a worker ended while it built its environments.
    """
    return _InWorkers(makers, name, timeout)


class _InWorkers(VectorEnv):
    def __init__(
        self, makers: Sequence[Callable[[], VectorEnv]], name: str, timeout: float
    ) -> None:
        self._makers, self._name, self._timeout = makers, name, timeout
        # lost workers that have not been replaced yet, with the reason
        self._lost: dict[int, str] = {}
        self._workers = [Worker(make) for make in makers]
        shares: list[Share] = self._receive([self._start_limit()] * len(makers))
        for number, reason in self._lost.items():
            self.close()
            raise EnvFailure(f"{name}: worker {number} {reason} while it was starting")
        sizes = [share.num_envs for share in shares]
        self.num_envs = sum(sizes)
        _, self.observation_space, self.action_space, self.render_fps, *rest = shares[0]
        self._numbered, longest = rest
        self._sizes = sizes
        ends = np.cumsum(sizes).tolist()
        self._rows = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        # of episodes without numbers, whose states the workers know, no actions are recorded
        self._log = EpisodeLog(self.num_envs, self.action_space, longest)
        self._current: list[Any] = [None] * len(makers)

    @override
    def reset(self, seed: int | None = None) -> ArrayTree:
        self._log.restart(seed)
        for number, rows in enumerate(self._rows):
            first = None if seed is None else int(self._log.seed[rows.start])
            self._send(number, "reset", self._opening(number, first))
        for number, answer in enumerate(self._receive()):
            self._note(number, answer)
        self._replace_all()
        return _join(self._current)

    @override
    def step(self, action: NDArray[Any]) -> EnvStep:
        action = np.asarray(action, self.action_space.dtype)
        self._log.record(action)
        for number, share in enumerate(np.split(action, np.cumsum(self._sizes)[:-1])):
            self._send(number, "step", share)
        steps: list[EnvStep] = []
        for number, answer in enumerate(self._receive()):
            if answer is None:
                steps.append(self._lost_step(number))
            else:
                step, episodes = answer
                self._note(number, (step.observation, episodes))
                steps.append(step)
        joined = _join_steps(steps, [rows.start for rows in self._rows])
        ended = joined.terminated | joined.truncated
        self._log.steps[ended] = 0
        if not self._numbered:
            self._log.episode[ended] += 1
        return joined

    @override
    def render(self) -> NDArray[np.uint8] | None:
        self._send(0, "render")
        return self._receive(numbers=[0])[0]

    @override
    def state(self) -> dict[str, NDArray[Any]] | None:
        return self.snapshot()()

    @override
    def snapshot(self) -> Callable[[], dict[str, NDArray[Any]] | None]:
        if self._numbered:
            recording, shown = self._log.recording(), fingerprints(_join(self._current))
            # the episodes of a lost worker are lost
            for number in self._lost:
                recording.steps[self._rows[number]] = recording.longest + 1
            return lambda: {**recording.state(), "shown": shown.copy()}
        for number in range(len(self._workers)):
            self._send(number, "state")
        parts = self._receive()
        state = None if self._lost else join_states(parts)
        return lambda: state

    @override
    def restore(self, state: Mapping[str, NDArray[Any]]) -> Restored:
        parts = split_state(state, self._sizes)
        for number, part in enumerate(parts):
            self._send(number, "restore", part)
        # each action of a replay may take as long as a step
        answers = self._receive([self._limit(1 + len(part.get("actions", ()))) for part in parts])
        misfits = [answer for answer in answers if isinstance(answer, str)]
        if misfits:
            raise ValueError(misfits[0])
        if self._numbered:
            self._log.load(state)
        anew = np.ones(self.num_envs, np.bool_)
        for number, answer in enumerate(answers):
            if answer is not None:
                restored, episodes = answer
                anew[self._rows[number]] = restored.anew
                self._note(number, (restored.observation, episodes))
        self._log.steps[anew] = 0
        self._replace_all()
        return Restored(anew, _join(self._current))

    @override
    def close(self) -> None:
        for worker in self._workers:
            worker.hang_up()
        ending = time.monotonic() + GRACE_SECONDS
        for worker in self._workers:
            worker.end(max(ending - time.monotonic(), 0.0))
        self._workers = []

    def _limit(self, times: int = 1) -> float:
        return time.monotonic() + times * self._timeout

    def _start_limit(self) -> float:
        return time.monotonic() + max(self._timeout, START_SECONDS)

    def _opening(self, number: int, seed: int | None) -> Opening:
        rows = self._rows[number]
        return Opening(seed, self._log.seed[rows], self._log.episode[rows])

    def _send(self, number: int, request: Request, argument: Any = None) -> None:
        if number not in self._lost:
            self._workers[number].send(request, argument)

    def _receive(
        self, limits: Sequence[float] | None = None, numbers: Sequence[int] | None = None
    ) -> list[Any]:
        """The answers of all or some workers by their deadlines; None for a lost worker."""
        numbers = range(len(self._workers)) if numbers is None else numbers
        limits = [self._limit()] * len(numbers) if limits is None else limits
        answers: list[Any] = [None] * len(numbers)
        for place, (number, limit) in enumerate(zip(numbers, limits, strict=True)):
            if number in self._lost:
                continue
            try:
                answers[place] = self._workers[number].receive(limit)
            except WorkerLostError as lost:
                self._lost[number] = str(lost)
                self._workers[number].end()
            except (EnvConfigError, EnvFailure):
                self.close()
                raise
            except RuntimeError as error:
                self.close()
                raise RuntimeError(f"environment worker {number} failed: {error}") from error
        return answers

    def _note(self, number: int, answer: tuple[ArrayTree, NDArray[Any] | None] | None) -> None:
        """Keep a worker's observations and the numbers of its episodes."""
        if answer is not None:
            self._current[number], episodes = answer
            if episodes is not None:
                self._log.episode[self._rows[number]] = episodes

    def _lost_step(self, number: int) -> EnvStep:
        """The step of a lost worker's environments, after it was replaced."""
        size, before = self._sizes[number], self._current[number]
        faults = self._replace(number)
        reward, no, yes = np.zeros(size, np.float32), np.zeros(size, bool), np.ones(size, bool)
        return EnvStep(self._current[number], reward, no, yes, before, None, faults)

    def _replace_all(self) -> None:
        for number in list(self._lost):
            for message in self._replace(number).values():
                warnings.warn(message, RuntimeWarning, stacklevel=3)

    def _replace(self, number: int) -> dict[int, str]:
        """Replace a lost worker and open new episodes; returns the faults by its rows.

        Raises:
            EnvFailure: If several workers in a row are lost while they open the episodes.
        """
        rows = self._rows[number]
        why = f"worker {number} {self._lost.pop(number)}"
        slots = range(rows.start, rows.stop)
        faults = {slot - rows.start: self._message(slot, why) for slot in slots}
        for _ in range(MOST_FAILED_RESETS):
            self._log.next(rows)
            self._workers[number] = Worker(self._makers[number])
            self._receive([self._start_limit()], [number])
            seed = episode_seed(int(self._log.seed[rows.start]), int(self._log.episode[rows.start]))
            self._send(number, "reset", self._opening(number, seed))
            self._note(number, self._receive(numbers=[number])[0])
            if number not in self._lost:
                return faults
            why = f"worker {number} {self._lost.pop(number)} while it reset its environments"
        self.close()
        raise EnvFailure(self._message(rows.start, why))

    def _message(self, slot: int, what: str) -> str:
        return f"{self._name}: slot {slot}, {self._log.describe(slot)}: {what}"


def _join(trees: Sequence[ArrayTree]) -> ArrayTree:
    return map_arrays(lambda *leaves: np.concatenate(leaves), *trees)


def _join_steps(steps: Sequence[EnvStep], first_rows: Sequence[int]) -> EnvStep:
    """The steps of all workers as one; rows of optional parts are valid where an episode ended."""
    final_observation: ArrayTree | None = None
    if any(step.final_observation is not None for step in steps):
        trees = [
            s.observation if s.final_observation is None else s.final_observation for s in steps
        ]
        final_observation = _join(trees)
    success: NDArray[np.bool_] | None = None
    if any(step.success is not None for step in steps):
        flags = [np.zeros_like(s.terminated) if s.success is None else s.success for s in steps]
        success = np.concatenate(flags)
    return EnvStep(
        _join([step.observation for step in steps]),
        np.concatenate([step.reward for step in steps]),
        np.concatenate([step.terminated for step in steps]),
        np.concatenate([step.truncated for step in steps]),
        final_observation,
        success,
        {
            first + row: what
            for first, step in zip(first_rows, steps, strict=True)
            for row, what in step.faults.items()
        },
    )
