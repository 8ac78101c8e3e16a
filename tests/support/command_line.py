"""Runs commands of ``fwrl`` in this process and interrupts trainings at a chosen moment."""

import sys
from unittest import mock

from fwrl.cli import main
from fwrl.run import last_resort, signals


def run_command(*words):
    """The exit code of ``fwrl`` with these words, run in this process, which is never ended."""
    argv = mock.patch.object(sys, "argv", ["fwrl", *map(str, words)])
    with argv, mock.patch.object(last_resort, "LIMIT", 1e6):
        try:
            main()
        except SystemExit as leave:
            return leave.code
    raise AssertionError("a command always leaves")


class InterruptAt:
    """Interrupts training at its n-th check of whether to stop; never if ``n`` is None.

    Training checks before each environment step and each update, also during evaluations.
    """

    def __init__(self, n):
        self.n, self.checks = n, 0

    def __enter__(self):
        self.patch = mock.patch.object(signals, "_check", self.check)
        self.patch.start()
        return self

    def __exit__(self, *_):
        self.patch.stop()

    def check(self, received):
        self.checks += 1
        if self.checks == self.n:
            raise signals.Interrupted("the test wants it")
