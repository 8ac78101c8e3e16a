"""Faults of environments, told in few lines however many there are."""

import re
from collections.abc import Callable, Sequence

from agents.rollout import Episodes

# Faults of more different texts than these are counted together.
MOST_KINDS = 100
OTHERS = "other faults"
# Training ends after so many faulty iterations in a row. An iteration is faulty if no episode ended
# soundly in it, while a fault came at least once in so many steps.
MAX_FAULTY, STEPS_PER_FAULT = 3, 100
# Slots, seeds, counts and values differ between faults of one kind.
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?|\bnan\b|-?\binf\b")


class FaultReport:
    """Says the first fault of each kind, and how many there are whenever that has doubled."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        # how many there are of a kind, how many were told, and the latest one
        self._kinds: dict[str, tuple[int, int, str]] = {}
        self._faulty = 0

    def tell(self, faults: Sequence[str]) -> None:
        """Tell of new faults, one line on each."""
        for line in faults:
            kind = NUMBER.sub("#", line)
            if kind not in self._kinds and len(self._kinds) >= MOST_KINDS:
                kind = OTHERS
            count, told, _ = self._kinds.get(kind, (0, 0, ""))
            if count == 0 and kind != OTHERS:
                self._say(line)
                told = 1
            self._kinds[kind] = count + 1, told, line
        for kind, (count, told, line) in self._kinds.items():
            if count >= 2 * max(told, 1):
                self._tell_again(kind, count, line)

    def close(self) -> None:
        """Tell the final counts that were not told yet."""
        for kind, (count, told, line) in self._kinds.items():
            if count > told:
                self._tell_again(kind, count, line)

    def _tell_again(self, kind: str, count: int, line: str) -> None:
        self._say(
            f"{count:,} {'other' if kind == OTHERS else 'such'} faults so far; the latest: {line}"
        )
        self._kinds[kind] = count, count, line

    def nothing_but(self, episodes: Episodes, steps: int) -> str | None:
        """Add an iteration of ``steps``; why training should end if there is nothing but faults."""
        faulty = not episodes.returns and len(episodes.faults) * STEPS_PER_FAULT >= steps
        self._faulty = self._faulty + 1 if faulty else 0
        if self._faulty < MAX_FAULTY:
            return None
        return (
            f"no episode ended without a fault in {MAX_FAULTY} iterations in a row; "
            f"`fwrl check-env` looks into it; the last fault: {episodes.faults[-1]}"
        )
