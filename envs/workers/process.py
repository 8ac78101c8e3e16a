"""A worker process that steps a share of the environments, and its handle."""

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from gymnasium import spaces
from gymnasium.vector.utils import CloudpickleWrapper
from numpy.typing import NDArray

from envs.config import EnvConfigError, EnvFailure, one_line
from envs.vector import VectorEnv
from envs.workers.in_process import OneByOne

Request: TypeAlias = Literal["reset", "step", "render", "state", "restore"]

# one thread per worker: more would compete for the cores
ONE_THREAD = dict.fromkeys(
    ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"], "1"
)
# answers that are errors: of the configuration, of the environment, of our code
ERRORS: dict[str, type[Exception]] = {
    "mistake": EnvConfigError,
    "broken": EnvFailure,
    "failure": RuntimeError,
}
# time for a killed process to end
DYING_SECONDS = 5.0


class WorkerLostError(Exception):
    """A worker that ended, or did not answer in time. The message follows its name."""


class Share(NamedTuple):
    """The environments of a worker."""

    num_envs: int
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    render_fps: float
    numbers_episodes: bool
    """Whether episodes are opened by the slot's seed and the number of the episode."""
    longest_replay: int
    """The most actions of an episode to be recorded, by whoever sends them."""


class Opening(NamedTuple):
    """Seeds for the next episodes of a worker's environments."""

    seed: int | None
    """Seed for ``VectorEnv.reset``, used if episodes have no numbers."""
    seeds: NDArray[Any]
    episodes: NDArray[Any]


class Worker:
    """Handle of a worker process."""

    def __init__(self, make: Callable[[], VectorEnv]) -> None:
        # a forked process would inherit locks held by threads of this one
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        # cloudpickle, as the new process cannot import what a user's script registered
        self.process: Any = context.Process(
            target=_work, args=(theirs, CloudpickleWrapper(cast(Any, make))), daemon=True
        )
        with _environment(ONE_THREAD):
            self.process.start()
        theirs.close()

    def send(self, request: Request, argument: Any = None) -> None:
        """Send a request; if the worker has ended, ``receive`` notices."""
        with suppress(ConnectionError):
            self._pipe.send((request, argument))

    def receive(self, deadline: float) -> Any:
        """The answer to a request, by a deadline of ``time.monotonic()``; at first the ``Share``.

        Raises:
            WorkerLostError: If the worker ended or does not answer.
            EnvConfigError, EnvFailure, RuntimeError: If the worker answers with an error.
        """
        try:
            if not self._pipe.poll(max(deadline - time.monotonic(), 0.0)):
                raise WorkerLostError("did not answer in time")
            outcome, result = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise WorkerLostError(self._how_it_ended()) from error
        if outcome != "result":
            raise ERRORS[outcome](result)
        return result

    def hang_up(self) -> None:
        """Close the pipe, so that the worker ends by itself unless it hangs."""
        self._pipe.close()

    def end(self, grace: float = 0.0) -> None:
        """Wait ``grace`` seconds for the worker to end, then kill it."""
        self._pipe.close()
        self.process.join(grace)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(DYING_SECONDS)

    def _how_it_ended(self) -> str:
        self.process.join(DYING_SECONDS)
        code = self.process.exitcode
        if code is None:
            return "closed its pipe"
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _work(pipe: Any, make: Callable[[], VectorEnv]) -> None:
    """Main function of a worker: build environments and answer requests until the pipe closes."""
    # an interrupt is for the main process, which then closes the pipe
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # so are signals that a launcher sends to the main process and its children
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    with suppress(EOFError, ConnectionError):
        try:
            envs = make()
            shapes = envs.observation_space, envs.action_space
            numbers_episodes, longest = isinstance(envs, OneByOne), 0
            if isinstance(envs, OneByOne):
                longest, envs.log.longest = envs.log.longest, 0
            share = Share(envs.num_envs, *shapes, envs.render_fps, numbers_episodes, longest)
            pipe.send(("result", share))
            while True:
                request, argument = pipe.recv()
                pipe.send(_answer(envs, request, argument))
        except (EOFError, ConnectionError):
            raise
        except EnvConfigError as error:
            pipe.send(("mistake", one_line(error)))
        except EnvFailure as error:
            pipe.send(("broken", one_line(error)))
        # any other exception is reported to the main process
        except Exception:
            pipe.send(("failure", traceback.format_exc()))


def _answer(envs: VectorEnv, request: Request, argument: Any) -> tuple[str, Any]:
    match request:
        case "reset":
            result = _open(envs, argument), _episodes(envs)
        case "step":
            step = envs.step(argument)
            # a read-only mapping cannot be sent
            result = step._replace(faults=dict(step.faults)), _episodes(envs)
        case "render":
            result = envs.render()
        case "state":
            result = envs.state()
        case "restore":
            try:
                result = envs.restore(argument), _episodes(envs)
            except ValueError as error:
                # the message instead of a result: the environments are unchanged
                result = one_line(error)
    return "result", result


def _open(envs: VectorEnv, opening: Opening) -> Any:
    if isinstance(envs, OneByOne):
        return envs.open(opening.seeds, opening.episodes)
    return envs.reset(opening.seed)


def _episodes(envs: VectorEnv) -> NDArray[Any] | None:
    return envs.log.episode.copy() if isinstance(envs, OneByOne) else None


@contextmanager
def _environment(variables: dict[str, str]) -> Generator[None]:
    """Set environment variables for processes started within the block."""
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
