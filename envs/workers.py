"""Environments spread over processes: each worker steps its share, all workers at the same time.

Worthwhile where a step of one environment takes much longer than sending it through a pipe (about
a tenth of a millisecond).
"""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from gymnasium.vector.utils import CloudpickleWrapper
from numpy.typing import NDArray
from typing_extensions import override

from envs.config import EnvConfigError, one_line
from envs.vector import ArrayTree, EnvStep, Restored, VectorEnv, map_arrays

Request: TypeAlias = Literal["reset", "step", "render"]
# What a worker answers: a result, a mistake of the user, or what broke in the environment.
Answer: TypeAlias = tuple[Literal["result", "mistake", "failure"], Any]

# One thread per worker: more would only get into each other's way.
ONE_THREAD = dict.fromkeys(
    ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"], "1"
)


def in_workers(makers: Sequence[Callable[[], VectorEnv]]) -> VectorEnv:
    """The environments of all ``makers`` in a row, each maker's in a process of its own.

    Raises:
        EnvConfigError: If a maker raised it.
    """
    return _InWorkers(makers)


class _InWorkers(VectorEnv):
    def __init__(self, makers: Sequence[Callable[[], VectorEnv]]) -> None:
        # A forked process would inherit locks that threads of this one hold.
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection[Any, Any]] = []
        self._processes: list[Any] = []
        with _environment(ONE_THREAD):
            for make in makers:
                ours, theirs = context.Pipe()
                # what a script of the user's registered cannot be found by name over there
                process = context.Process(
                    target=_work, args=(theirs, CloudpickleWrapper(cast(Any, make))), daemon=True
                )
                process.start()
                theirs.close()
                self._pipes.append(ours)
                self._processes.append(process)
        described = self._receive()
        self._sizes = [size for size, *_ in described]
        self.num_envs = sum(self._sizes)
        _, self.observation_space, self.action_space, self.render_fps = described[0]

    @override
    def reset(self, seed: int | None = None) -> ArrayTree:
        offsets = np.cumsum([0, *self._sizes[:-1]]).tolist()
        seeds = [None if seed is None else seed + offset for offset in offsets]
        return _join(self._ask("reset", seeds))

    @override
    def step(self, action: NDArray[Any]) -> EnvStep:
        shares = np.split(np.asarray(action), np.cumsum(self._sizes)[:-1])
        return _join_steps(self._ask("step", shares))

    @override
    def render(self) -> NDArray[np.uint8] | None:
        self._pipes[0].send(("render", None))
        return self._receive(self._pipes[:1])[0]

    @override
    def state(self) -> dict[str, NDArray[Any]] | None:
        return None

    @override
    def restore(self, state: Mapping[str, NDArray[Any]]) -> Restored:
        raise ValueError("environments in workers cannot be restored")

    @override
    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join()
        self._pipes, self._processes = [], []

    def _ask(self, request: Request, arguments: Sequence[Any]) -> list[Any]:
        for pipe, argument in zip(self._pipes, arguments, strict=True):
            # A worker that died is noticed when its answer is missing.
            with suppress(ConnectionError):
                pipe.send((request, argument))
        return self._receive()

    def _receive(self, pipes: Sequence[Any] | None = None) -> list[Any]:
        """The results of the workers; their first error is raised after all have answered."""
        answers = [_answer(pipe) for pipe in (self._pipes if pipes is None else pipes)]
        for number, (outcome, result) in enumerate(answers):
            if outcome != "result":
                self.close()
                if outcome == "mistake":
                    raise EnvConfigError(result)
                raise RuntimeError(f"environment worker {number} failed: {result}")
        return [result for _, result in answers]


def _answer(pipe: Any) -> Answer:
    try:
        return pipe.recv()
    except (EOFError, ConnectionError):
        return "failure", "its process ended without a word"


def _work(pipe: Any, make: Callable[[], VectorEnv]) -> None:
    """A worker's life: build, answer requests, end when the other end of the pipe closes."""
    # An interrupt is for the main process, which then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # so is what a launcher of several processes sends to the main process and all it has started
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    with suppress(EOFError, ConnectionError):
        try:
            envs = make()
            spaces = envs.observation_space, envs.action_space
            pipe.send(("result", (envs.num_envs, *spaces, envs.render_fps)))
            while True:
                request, argument = pipe.recv()
                pipe.send(("result", _serve(envs, request, argument)))
        except (EOFError, ConnectionError):
            raise
        except EnvConfigError as error:
            pipe.send(("mistake", one_line(error)))
        # whatever an environment raises must reach the main process
        except Exception:
            pipe.send(("failure", traceback.format_exc()))


def _serve(envs: VectorEnv, request: Request, argument: Any) -> Any:
    match request:
        case "reset":
            return envs.reset(argument)
        case "step":
            step = envs.step(argument)
            return step._replace(faults=dict(step.faults))
        case "render":
            return envs.render()


def _join(trees: Sequence[ArrayTree]) -> ArrayTree:
    return map_arrays(lambda *leaves: np.concatenate(leaves), *trees)


def _join_steps(steps: Sequence[EnvStep]) -> EnvStep:
    """One step of all environments; where a worker has nothing to tell its rows mean nothing."""
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
        {row: what for step in steps for row, what in step.faults.items()},
    )


@contextmanager
def _environment(variables: dict[str, str]) -> Generator[None]:
    """Processes started inside see these environment variables."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
