"""Signals that stop a training: remembered at once, obeyed at the next safe point."""

import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch.optim import Optimizer

from agents import distributed
from envs import VectorEnv

# Sent by a scheduler before it takes the machine away, or by a person.
STOPPING = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
    if hasattr(signal, name)
]


class Interrupted(Exception):
    """A signal has come; the work under way is abandoned."""


@contextmanager
def stop_signals() -> Generator[list[int]]:
    """A list that receives the signals; a second SIGINT interrupts at once.

    With several processes no signal interrupts at once, and after the context signals are ignored:
    a launcher may repeat a signal that the system has sent to all processes, and terminates the
    remaining ones as soon as one has left. A SIGHUP that is ignored, as by ``nohup``, stays so.
    """
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if signal.SIGINT in received and number == signal.SIGINT and _alone():
            signal.default_int_handler(number, frame)
        received.append(number)

    with _handled_by(remember):
        yield received


@contextmanager
def signals_interrupt() -> Generator[None]:
    """Let every signal that stops a training raise KeyboardInterrupt, as SIGINT does."""
    with _handled_by(signal.default_int_handler):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Generator[None]:
    obeyed = [number for number in STOPPING if not _stays_ignored(number)]
    previous = [signal.signal(number, handler) for number in obeyed]
    try:
        yield
    finally:
        for number, before in zip(obeyed, previous, strict=True):
            signal.signal(number, before if _alone() else signal.SIG_IGN)


def interrupt_steps(envs: VectorEnv, received: list[int]) -> None:
    """Make the next step of environments raise ``Interrupted`` once a signal has come.

    Several processes must stop together, and therefore finish their iteration instead.
    """

    def checked(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def check_first(action: Any) -> Any:
            _check(received)
            return step(action)

        return check_first

    for name in ("step", "step_on_device"):
        if _alone() and hasattr(envs, name):
            setattr(envs, name, checked(getattr(envs, name)))


def interrupt_updates(optimizer: Optimizer, received: list[int]) -> None:
    """Make the next gradient step raise ``Interrupted`` once a signal has come."""

    def check(*_: Any) -> None:
        _check(received)

    if _alone():
        optimizer.register_step_pre_hook(check)


def _stays_ignored(number: int) -> bool:
    return signal.Signals(number).name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN


def _alone() -> bool:
    return distributed.num_processes() == 1


def _check(received: list[int]) -> None:
    if received:
        raise Interrupted(signal.Signals(received[0]).name)
