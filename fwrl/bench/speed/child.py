"""A learner in a process of its own, timed in turns with those of this process.

A line of JSON each way: the parent sends the job as an argument, then ``iterate`` or ``evaluate``;
the child answers with the seconds that it took, by its own clocks.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from fwrl.bench.benchmark import UnfitError
from fwrl.bench.speed.job import Learner, TrainingConfig
from fwrl.bench.speed.timing import Seconds, now, since


class Child:
    """The parent's side; ``preparation`` is the time to build and compile the learner.

    Every call raises an ``UnfitError`` if the child has ended.
    """

    def __init__(self, command: Sequence[str], job: TrainingConfig) -> None:
        self.command = command
        self.process = subprocess.Popen(
            [*command, job.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.preparation = Seconds(*self._answer())
        except UnfitError:
            self.close()
            raise

    def iterate(self) -> Seconds:
        """A rollout and its updates, and the time that they took."""
        return Seconds(*self._ask("iterate"))

    def evaluate(self, episodes: int) -> float:
        """The mean return of so many episodes."""
        return self._ask("evaluate", episodes)

    def close(self) -> None:
        """End the child."""
        with self.process:
            pass

    def _ask(self, *words: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{json.dumps(words)}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise UnfitError(f"{self.command[-1]}: ended with code {self.process.wait()}")
        return json.loads(line)


def serve(make: Callable[[TrainingConfig], Learner]) -> None:
    """The child's side: builds the learner of the job, then does what is asked until the end."""
    job = TrainingConfig.model_validate_json(sys.argv[1])
    # before any library counts them to decide on its threads
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-job.threads :])
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(result: object) -> None:
        print(json.dumps(result), file=answers, flush=True)

    began = now()
    learner = make(job)
    answer(since(began))
    for line in sys.stdin:
        word, *arguments = json.loads(line)
        began = now()
        if word == "iterate":
            learner.iterate()
            answer(since(began))
        else:
            answer(learner.evaluate(*arguments))
