"""Remember the latest value of every key: the task that the delta rule was made for.

It is the associative retrieval with replacement of Schlag, Irie & Schmidhuber (2021) as an
environment: a memory that only adds mixes the old values of a key with its new one.
"""

import numpy as np
from gymnasium import spaces
from jaxtyping import Int
from typing_extensions import override

from envs.tasks.drawing.pictures import Card
from envs.tasks.parameters import choose, setting
from envs.tasks.question_task import NOT_ASKED, QuestionTask, Script, Seen

# num_keys, num_values, num_rewrites, num_queries
LEVELS = {"easy": (4, 4, 4, 4), "medium": (16, 8, 16, 8), "hard": (32, 16, 96, 16)}


class KeyValueRecall(QuestionTask):
    """Pairs of a key and a value are shown, some keys again with another value; then keys alone.

    The answer to a key alone is the value it was last shown with. An observation is (key, value);
    the value ``num_values`` says that the key is being asked for. Each key is shown at least once,
    each time with another value than the time before, and is asked for at most once. Values are
    uniform and independent of the keys: without memory no policy beats chance, which returns
    2 / num_values - 1.
    """

    def __init__(
        self,
        num_envs: int = 1,
        level: str = "easy",
        num_keys: int | None = None,
        num_values: int | None = None,
        num_rewrites: int | None = None,
        num_queries: int | None = None,
    ) -> None:
        """The task at one of its levels, of which single numbers can be replaced.

        Args:
            num_envs: Environments stepped together.
            level: "easy", "medium" or "hard".
            num_keys: How many keys there are.
            num_values: How many values there are.
            num_rewrites: How many pairs are shown beyond the first one of each key.
            num_queries: How many different keys are asked for.
        """
        keys, values, rewrites, queries = choose("KeyValueRecall: level", level, LEVELS)
        where = "KeyValueRecall: num_"
        self.num_keys = setting(f"{where}keys", num_keys, keys, 1)
        self.num_values = setting(f"{where}values", num_values, values, 2)
        self.num_rewrites = setting(f"{where}rewrites", num_rewrites, rewrites, 0)
        self.num_queries = setting(f"{where}queries", num_queries, queries, 1, self.num_keys)
        self.num_writes = self.num_keys + self.num_rewrites
        length = self.num_writes + self.num_queries
        pair = spaces.MultiDiscrete([self.num_keys, self.num_values + 1])
        values_by_name = [str(value) for value in range(self.num_values)]
        super().__init__(num_envs, pair, values_by_name, length, self.num_queries)

    @override
    def script(self, generator: np.random.Generator) -> Script:
        again = generator.integers(self.num_keys, size=self.num_rewrites)
        keys = generator.permutation(np.concatenate([np.arange(self.num_keys), again]))
        values, latest = self._values(keys, generator)
        queries = generator.permutation(self.num_keys)[: self.num_queries]
        seen = np.full((self.length + 1, 2), self.num_values)
        seen[: self.num_writes] = np.stack([keys, values], axis=1)
        seen[self.num_writes : self.length, 0] = queries
        # after the last answer the last question is still on the table
        seen[self.length, 0] = queries[-1]
        answers = np.full(self.length, NOT_ASKED)
        answers[self.num_writes :] = latest[queries]
        return seen, answers

    @override
    def on_table(self, seen: Seen, time: int) -> list[Card]:
        key, value = seen[time].tolist()
        asked = value == self.num_values
        return [Card(str(key), "key"), Card("?" if asked else str(value), "value")]

    @override
    def question(self, time: int) -> str:
        return "Which value had this key last?"

    def _values(
        self, keys: Int[np.ndarray, " writes"], generator: np.random.Generator
    ) -> tuple[Int[np.ndarray, " writes"], Int[np.ndarray, " keys"]]:
        """The value of each write, and each key's value in the end.

        A key starts from a uniform value and each write adds at least one and less than
        ``num_values`` to it, on a circle: so a rewrite always changes it, and it stays uniform.
        """
        start = generator.integers(self.num_values, size=self.num_keys)
        change = generator.integers(1, self.num_values, size=self.num_writes)
        values = start + np.cumsum(change[:, None] * (keys[:, None] == np.arange(self.num_keys)), 0)
        values %= self.num_values
        return values[np.arange(self.num_writes), keys], values[-1]
