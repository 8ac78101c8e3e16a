"""T-mazes one after the other, each with a cue of its own (Shchendrigin et al. 2026)."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Float32, Int
from typing_extensions import override

from envs.tasks.batched import BatchedTask, Outcome, constant
from envs.tasks.drawing.canvas import Picture
from envs.tasks.drawing.pictures import Maze, t_maze
from envs.tasks.parameters import choose, in_range, setting

LEFT, RIGHT, FORWARD = range(3)
RIGHT_TURN, WRONG_TURN, STANDING = 1.0, -1.0, -0.01
# whether every corridor has a random length
LENGTHS = {"fixed": False, "uniform": True}


class EndlessTMaze(BatchedTask):
    """Walk (2) to a junction, turn left (0) or right (1) as told; the next corridor begins there.

    Each corridor shows a cue on its first square alone, and what the cue before it said is out of
    date: a memory must replace, not only keep. An observation is four numbers: cue left, cue right,
    the position as a fraction of the longest corridor, and 1 at a junction. The right turn earns 1,
    the wrong one costs 1 and terminates, and a step that neither moves nor turns costs 0.01. The
    last right turn terminates and succeeds; the clock truncates.

    The best return is `num_corridors`; without memory none is better than 0 on average, and one
    episode in 2 ** num_corridors succeeds. As published, but that a junction can be seen: with the
    published numbers alone, random lengths are a matter of trying on every square.
    """

    metadata: ClassVar[dict[str, Any]] = {**BatchedTask.metadata, "render_fps": 8}

    def __init__(
        self,
        num_envs: int = 1,
        lengths: str = "fixed",
        corridor_length: int = 10,
        num_corridors: int = 5,
        time_limit: int | None = None,
    ) -> None:
        """The task with as many corridors as wanted.

        Args:
            num_envs: Environments stepped together.
            lengths: "fixed", or "uniform": each corridor has a random length from 1 on.
            corridor_length: Steps from a cue to its junction, at most if lengths are uniform.
            num_corridors: Corridors in an episode; with one it is a T-maze.
            time_limit: Steps after which the clock truncates an episode; None is six times as many
                as the longest way has.
        """
        self._is_uniform = choose("EndlessTMaze: lengths", lengths, LENGTHS)
        self.num_envs = in_range("EndlessTMaze: num_envs", num_envs, 1)
        self.corridor_length = in_range("EndlessTMaze: corridor_length", corridor_length, 1)
        self.num_corridors = in_range("EndlessTMaze: num_corridors", num_corridors, 1)
        longest = 6 * num_corridors * (corridor_length + 1)
        self.time_limit = setting("EndlessTMaze: time_limit", time_limit, longest, 1)
        self.observation_space = spaces.Box(0, 1, (4,), np.float32)
        self.action_space = spaces.Discrete(3)
        self._cues = np.zeros((num_envs, num_corridors), dtype=np.int64)
        self._lengths = np.full((num_envs, num_corridors), corridor_length)
        self._corridor = np.zeros(num_envs, dtype=np.int64)
        self._position = np.zeros(num_envs, dtype=np.int64)
        self._time = np.zeros(num_envs, dtype=np.int64)
        # the turn that ended the episode; -1 before
        self._last_turn = np.full(num_envs, -1)
        self._success = np.zeros(num_envs, dtype=bool)
        self._rows = constant(np.arange(num_envs))

    @override
    def begin(self, rows: Int[np.ndarray, " R"], generators: Sequence[np.random.Generator]) -> None:
        for row, generator in zip(rows, generators, strict=True):
            self._cues[row] = generator.integers(2, size=self.num_corridors)
            if self._is_uniform:
                self._lengths[row] = generator.integers(
                    1, self.corridor_length, self.num_corridors, endpoint=True
                )
        self._corridor[rows] = 0
        self._position[rows] = 0
        self._time[rows] = 0
        self._last_turn[rows] = -1

    @override
    def advance(self, action: Int[np.ndarray, " N"]) -> Outcome:
        at_junction = self._at_junction()
        turned = at_junction & (action != FORWARD)
        moved = ~at_junction & (action == FORWARD)
        right = turned & (action == self._of_corridor(self._cues))
        reward = np.where(turned | moved, 0.0, STANDING)
        reward[turned] = WRONG_TURN
        reward[right] = RIGHT_TURN
        is_last = self._corridor == self.num_corridors - 1
        self._success = right & is_last
        terminated = turned & (is_last | ~right)
        passed = right & ~is_last
        self._corridor = self._corridor + passed
        self._position = np.where(passed, 0, self._position + moved)
        self._last_turn = np.where(terminated, action, -1)
        self._time += 1
        return reward.astype(np.float32), terminated, ~terminated & (self._time >= self.time_limit)

    @override
    def observe(self) -> Float32[np.ndarray, "N 4"]:
        cue = self._of_corridor(self._cues)
        is_first = self._position == 0
        columns = (
            is_first & (cue == LEFT),
            is_first & (cue == RIGHT),
            self._position / self.corridor_length,
            self._at_junction(),
        )
        return np.stack([column.astype(np.float32) for column in columns], axis=1)

    @override
    def picture(self, row: int) -> Picture:
        position, corridor = int(self._position[row]), int(self._corridor[row])
        turn = int(self._last_turn[row])
        maze = Maze(
            squares=int(self._lengths[row, corridor]) + 1,
            position=position,
            cue=int(self._cues[row, corridor]),
            note=f"corridor {corridor + 1} of {self.num_corridors}",
            cue_is_seen=position == 0,
            arm=None if turn < 0 else turn,
            time_left=1 - int(self._time[row]) / self.time_limit,
        )
        return t_maze(maze)

    @override
    def success(self) -> Bool[np.ndarray, " N"]:
        return self._success

    def _of_corridor(self, array: Int[np.ndarray, "N corridors"]) -> Int[np.ndarray, " N"]:
        """The entries of the corridors that the agents are in."""
        return array[self._rows, self._corridor]

    def _at_junction(self) -> Bool[np.ndarray, " N"]:
        return self._position == self._of_corridor(self._lengths)
