"""Base class of tasks that ask questions: no action changes what an episode shows and asks."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Int
from typing_extensions import override

from envs.tasks.batched import BatchedTask, Observation, Outcome, constant
from envs.tasks.drawing.canvas import Picture
from envs.tasks.drawing.pictures import Answer, Card, table
from envs.tasks.parameters import in_range

# stands for the right answer at a time step without a question, where no action is rewarded
NOT_ASKED = -1

# the observation at each time step, and after the last answer
Seen = Int[np.ndarray, "seen ..."]
# the observations, and the right answer at each time step
Script = tuple[Seen, Int[np.ndarray, " asked"]]


class QuestionTask(BatchedTask):
    """A task that asks for answers which depend on earlier observations.

    A right answer earns one over the number of questions in an episode and a wrong one loses as
    much: returns lie in [-1, 1]. An episode succeeds if all its answers are right.
    """

    def __init__(
        self,
        num_envs: int,
        observation_space: spaces.Space[Any],
        answers: Sequence[str],
        length: int,
        num_questions: int,
    ) -> None:
        """The task for N environments.

        Args:
            num_envs: N.
            observation_space: Discrete, or MultiDiscrete or Tuple with one number per column of the
                script.
            answers: The names of the possible answers.
            length: Actions in an episode.
            num_questions: Time steps of an episode with a question.
        """
        self.num_envs = in_range(f"{type(self).__name__}: num_envs", num_envs, 1)
        self.observation_space = observation_space
        self.action_space = spaces.Discrete(len(answers))
        self.answers = answers
        self.length = length
        several = isinstance(observation_space, spaces.MultiDiscrete | spaces.Tuple)
        columns = (len(observation_space),) if several else ()
        self._seen = np.zeros((num_envs, length + 1, *columns), dtype=np.int64)
        self._answers = np.zeros((num_envs, length), dtype=np.int64)
        self._prize = np.float32(1 / num_questions)
        self._rows = constant(np.arange(num_envs))
        self._time = np.zeros(num_envs, dtype=np.int64)
        self._mistakes = np.zeros(num_envs, dtype=np.int64)
        self._last_action = np.zeros(num_envs, dtype=np.int64)

    @abstractmethod
    def script(self, generator: np.random.Generator) -> Script:
        """One episode: ``length + 1`` observations and ``length`` right answers."""

    @abstractmethod
    def on_table(self, seen: Seen, time: int) -> list[Card]:
        """The cards in a picture at a time step, given all observations of an episode."""

    @abstractmethod
    def question(self, time: int) -> str:
        """The question at a time step that has one."""

    def waiting(self) -> str:
        """The title of a picture at the other time steps."""
        return "Remember"

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
        self._last_action = np.array(action)
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
    def picture(self, row: int) -> Picture:
        time = int(self._time[row])
        title = "That was all"
        if time < self.length:
            asked = self._answers[row, time] != NOT_ASKED
            title = self.question(time) if asked else self.waiting()
        cards = self.on_table(self._seen[row], time)
        return table(title, cards, self._last_answer(row, time), 1 - time / self.length)

    def _last_answer(self, row: int, time: int) -> Answer | None:
        if time == 0:
            return None
        right = int(self._answers[row, time - 1])
        given = self.answers[int(self._last_action[row])]
        return Answer(given, None if right == NOT_ASKED else self.answers[right])

    @override
    def success(self) -> Bool[np.ndarray, " N"] | None:
        return self._mistakes == 0
