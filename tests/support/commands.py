"""Commands of ``fwrl`` in this process, and trainings that stop where a test wants them to."""

import sys
from unittest import mock

from fwrl.cli import main
from fwrl.run import signals as stopping


def command(*words):
    """The exit code of ``fwrl`` with these words."""
    with mock.patch.object(sys, "argv", ["fwrl", *map(str, words)]):
        try:
            main()
        except SystemExit as leave:
            return leave.code
    raise AssertionError("a command always leaves")


class StopAt:
    """Interrupts a training when it asks, for the so-manieth time, whether it should stop.

    It asks before every step of an environment and every update, also while it is evaluated.
    """

    def __init__(self, time):
        self.time, self.asked = time, 0

    def __enter__(self):
        self.patch = mock.patch.object(stopping, "_check", self.check)
        self.patch.start()
        return self

    def __exit__(self, *_):
        self.patch.stop()

    def check(self, received):
        self.asked += 1
        if self.asked == self.time:
            raise stopping.Interrupted("the test wants it")
