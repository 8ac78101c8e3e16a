"""Learn a small world by walking in it, within one episode (Schlag, Munkhdalai & Schmidhuber 2021).

A world is a directed graph of five places; from a place a means of transport leads to one other
place or nowhere. The agent is told where it is and where to go; it has to find out, remember and
combine where each transport leads.
"""

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces
from jaxtyping import Float32, Int
from typing_extensions import override

from envs.tasks.batched import BatchedTask, Outcome, constant
from envs.tasks.drawing.canvas import GRAY, GREEN, RED, Picture
from envs.tasks.drawing.pictures import Walk, graph_walk
from envs.tasks.graphs import NOWHERE, NUM_PLACES, NUM_TRANSPORTS, published_graphs, unseen_graph
from envs.tasks.parameters import choose, in_range

NUM_STEPS = 30
ARRIVAL = 10.0
NO_WAY = -0.05
# after more steps than these without reward, agent and goal are placed anew
PATIENCE = 5

# in place of the last action where there is none
NO_ACTION = NUM_TRANSPORTS
# where the parts of an observation begin; the goal is the first
PLACE = NUM_PLACES
LAST_ACTION = PLACE + NUM_PLACES
BIAS = LAST_ACTION + NUM_TRANSPORTS + 1
CLOCK = BIAS + 1
LAST_REWARD = CLOCK + 1
OBSERVATION_SIZE = LAST_REWARD + 1


class GraphMetaRL(BatchedTask):
    """Reach as many goals as possible in 30 steps on a graph that the agent does not know.

    An action is a means of transport. Reaching the goal earns 10, and goal and agent are placed
    anew; a transport that leads nowhere costs 0.05. Too many steps without reward place both anew
    as well. The 17 numbers of an observation are one-hot goal, place and last action (or none), a
    constant 1, the share of the 30 steps that is over, and the last reward. The end terminates.

    Choosing at random returns 45 on average; knowing the graph and walking the shortest ways, 166.
    """

    def __init__(
        self,
        num_envs: int = 1,
        split: str = "train",
        patient_after_arrival: bool = False,
        published_observation: bool = False,
        graph: int | None = None,
    ) -> None:
        """The task on a set of graphs.

        Args:
            num_envs: Environments stepped together.
            split: "train" or "test", one of the 600 published graphs each per episode, or "fresh",
                a new random graph per episode that is none of the test graphs.
            patient_after_arrival: Whether reaching a goal sets back the count of steps without
                reward. The published experiments did not; the returns above are without, with it
                the shortest ways return 171.
            published_observation: Whether to show what the published code showed: the last reward
                is always 0, and "none" as last action is the constant 1, so that nothing shows it.
            graph: Environment i walks on this graph of the split, counted on by i, in all its
                episodes; None draws one for each episode.
        """
        self.num_envs = in_range("GraphMetaRL: num_envs", num_envs, 1)
        self.patient_after_arrival = patient_after_arrival
        self.published_observation = published_observation
        # None: every episode draws a graph of its own
        choices = {**published_graphs(), "fresh": None}
        self._graphs = choose("GraphMetaRL: split", split, choices)
        self._first_graph = graph
        if graph is not None and self._graphs is None:
            raise ValueError("GraphMetaRL: graph goes with split 'train' or 'test', not 'fresh'")
        high = np.ones(OBSERVATION_SIZE, dtype=np.float32)
        high[LAST_REWARD] = ARRIVAL
        low = np.zeros(OBSERVATION_SIZE, dtype=np.float32)
        low[LAST_REWARD] = NO_WAY
        self.observation_space = spaces.Box(low, high, dtype=np.float32)
        self.action_space = spaces.Discrete(NUM_TRANSPORTS)
        # the graph of each row, readable for oracles
        self.graph = np.full((num_envs, NUM_TRANSPORTS, NUM_PLACES), NOWHERE)
        # the placements of an episode (goal, place), and the index of the current one
        self._placements = np.zeros((num_envs, NUM_STEPS + 1, 2), dtype=np.int64)
        self._placement = np.zeros(num_envs, dtype=np.int64)
        self._place = np.zeros(num_envs, dtype=np.int64)
        self._last_action = np.zeros(num_envs, dtype=np.int64)
        self._last_reward = np.zeros(num_envs, dtype=np.float32)
        self._without_reward = np.zeros(num_envs, dtype=np.int64)
        self._time = np.zeros(num_envs, dtype=np.int64)
        self._rows = constant(np.arange(num_envs))

    @override
    def begin(self, rows: Int[np.ndarray, " R"], generators: Sequence[np.random.Generator]) -> None:
        for row, generator in zip(rows.tolist(), generators, strict=True):
            self.graph[row] = self._choose_graph(row, generator)
            self._placements[row] = placements(generator)
        self._placement[rows] = 0
        self._place[rows] = self._placements[rows, 0, 1]
        self._last_action[rows] = NO_ACTION
        self._last_reward[rows] = 0
        self._without_reward[rows] = 0
        self._time[rows] = 0

    @override
    def advance(self, action: Int[np.ndarray, " N"]) -> Outcome:
        destination = self.graph[self._rows, action, self._place]
        goal = self._placements[self._rows, self._placement, 0]
        arrived = destination == goal
        reward = np.where(destination == NOWHERE, np.float32(NO_WAY), np.float32(0))
        reward[arrived] = ARRIVAL
        self._without_reward += ~arrived
        if self.patient_after_arrival:
            self._without_reward[arrived] = 0
        lost = self._without_reward > PATIENCE
        self._without_reward[lost] = 0
        self._placement += arrived | lost
        anew = self._placements[self._rows, self._placement, 1]
        moved = np.where(destination == NOWHERE, self._place, destination)
        self._place = np.where(arrived | lost, anew, moved)
        self._last_action = np.where(lost, NO_ACTION, action)
        # a copy: the next episode clears it, and the caller keeps the reward
        self._last_reward = reward.copy()
        self._time += 1
        return reward, self._time == NUM_STEPS, np.zeros(self.num_envs, dtype=bool)

    @override
    def observe(self) -> Float32[np.ndarray, "N 17"]:
        goal = self._placements[self._rows, self._placement, 0]
        seen = np.zeros((self.num_envs, OBSERVATION_SIZE), dtype=np.float32)
        seen[self._rows, goal] = 1
        seen[self._rows, PLACE + self._place] = 1
        shift = 1 if self.published_observation else 0
        seen[self._rows, LAST_ACTION + self._last_action + shift] = 1
        seen[:, BIAS] = 1
        seen[:, CLOCK] = self._time / NUM_STEPS
        if not self.published_observation:
            seen[:, LAST_REWARD] = self._last_reward
        return seen

    @override
    def picture(self, row: int) -> Picture:
        goal = self._placements[row, self._placement[row], 0]
        note, color = self._note(row)
        time_left = 1 - int(self._time[row]) / NUM_STEPS
        walk = Walk(self.graph[row], int(self._place[row]), int(goal), note, color, time_left)
        return graph_walk(walk)

    def _note(self, row: int) -> tuple[str, tuple[int, int, int]]:
        if self._last_reward[row] > 0:
            return "arrived: agent and goal are placed anew", GREEN
        if self._last_reward[row] < 0:
            return f"transport {self._last_action[row]} leads nowhere", RED
        return "", GRAY

    def _choose_graph(
        self, row: int, generator: np.random.Generator
    ) -> Int[np.ndarray, "transports places"]:
        if self._graphs is None:
            return unseen_graph(generator.integers, published_graphs()["test"])
        if self._first_graph is not None:
            return self._graphs[(self._first_graph + row) % len(self._graphs)]
        return self._graphs[generator.integers(len(self._graphs))]


def placements(generator: np.random.Generator) -> Int[np.ndarray, "placements 2"]:
    """Goals and first places, as many as an episode may need.

    A goal differs from the goal before it, a place from its goal.
    """
    goal_step, offset = generator.integers(1, NUM_PLACES, size=(2, NUM_STEPS + 1))
    goal = (generator.integers(NUM_PLACES) + np.cumsum(goal_step)) % NUM_PLACES
    return np.stack([goal, (goal + offset) % NUM_PLACES], axis=1)
