"""What the recall tasks share: an episode is a script that no action can change."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Int
from typing_extensions import override

from envs.tasks.batched import BatchedTask, Observation, Outcome
from envs.tasks.parameters import in_range

# The answer at a time when the agent is not asked: whatever it does earns nothing.
NOT_ASKED = -1

# What is seen at each time (and after the last answer), and the right answer at each time.
Script = tuple[Int[np.ndarray, "seen ..."], Int[np.ndarray, " asked"]]


class ScriptedTask(BatchedTask):
    """A task that shows a script and asks for answers that depend on what it showed.

    A right answer earns one over the number of questions in an episode and a wrong one loses as
    much: returns lie in [-1, 1]. An episode succeeds if all its answers are right.
    """

    def __init__(
        self,
        num_envs: int,
        observation_space: spaces.Space[Any],
        num_answers: int,
        length: int,
        num_questions: int,
    ) -> None:
        """Room for N scripts.

        Args:
            num_envs: N.
            observation_space: Of one environment: Discrete, or MultiDiscrete or Tuple with one
                number per column of the script.
            num_answers: How many answers there are to choose from.
            length: Actions in an episode.
            num_questions: In how many of them the agent is asked.
        """
        self.num_envs = in_range(f"{type(self).__name__}: num_envs", num_envs, 1)
        self.observation_space = observation_space
        self.action_space = spaces.Discrete(num_answers)
        self.length = length
        several = isinstance(observation_space, spaces.MultiDiscrete | spaces.Tuple)
        columns = (len(observation_space),) if several else ()
        self._seen = np.zeros((num_envs, length + 1, *columns), dtype=np.int64)
        self._answers = np.zeros((num_envs, length), dtype=np.int64)
        self._prize = np.float32(1 / num_questions)
        self._rows = np.arange(num_envs)
        self._time = np.zeros(num_envs, dtype=np.int64)
        self._mistakes = np.zeros(num_envs, dtype=np.int64)

    @abstractmethod
    def script(self, generator: np.random.Generator) -> Script:
        """One episode: ``length + 1`` observations and ``length`` right answers."""

    @override
    def begin(self, rows: Int[np.ndarray, " R"], generators: Sequence[np.random.Generator]) -> None:
        for row, generator in zip(rows, generators, strict=True):
            self._seen[row], self._answers[row] = self.script(generator)
        self._time[rows] = 0
        self._mistakes[rows] = 0

    @override
    def advance(self, action: Int[np.ndarray, " N"]) -> Outcome:
        answer = self._answers[self._rows, self._time]
        asked = answer != NOT_ASKED
        right = action == answer
        self._mistakes += asked & ~right
        self._time += 1
        reward = np.where(asked, np.where(right, self._prize, -self._prize), np.float32(0))
        return reward, self._time == self.length, np.zeros(self.num_envs, dtype=bool)

    @override
    def observe(self) -> Observation:
        seen = self._seen[self._rows, self._time]
        if isinstance(self.observation_space, spaces.Tuple):
            return tuple(np.ascontiguousarray(seen.T))
        return seen

    @override
    def success(self) -> Bool[np.ndarray, " N"]:
        return self._mistakes == 0
