"""Fetch cubes by colour from a grid on which others teleport (Shchendrigin et al. 2026)."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Int, Int64
from typing_extensions import override

from envs.tasks.batched import BatchedTask, Outcome, constant
from envs.tasks.drawing.canvas import Picture
from envs.tasks.drawing.pictures import CUBE_COLORS, Cubes, cubes_on_grid
from envs.tasks.parameters import choose, in_range, setting

UP, DOWN, LEFT, RIGHT, TAKE = range(5)
# the change of row and column by each action
MOVES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1), (0, 0)])


class Teleports(NamedTuple):
    """How likely a cube teleports at each step, and whether colours are seen afterwards."""

    probability: float
    colors_are_seen: bool


LEVELS = {
    "easy": Teleports(0.0, colors_are_seen=True),
    "medium": Teleports(0.1, colors_are_seen=True),
    "hard": Teleports(0.1, colors_are_seen=False),
}


class ColorCubes(BatchedTask):
    """Walk up (0), down (1), left (2) or right (3) to the cube of a colour and take it (4).

    The cubes are shown at the beginning only, and again after each teleport, when one of those that
    are not asked for has moved to a free cell. The levels "easy", "medium" and "hard" are the
    published "trivial", without teleports, "medium", and "extreme": what is shown after a teleport
    are the cells without the colours, so that which cube moved is to be inferred.

    An observation is the agent's cell, the colour asked for, and the cell of each cube. While cubes
    are shown no colour is asked for, which is the number `num_cubes`; otherwise all their cells are
    the number of cells. Cells without colours are in ascending order. The right cube earns one over
    `num_targets` and another colour is asked for; taking anything else terminates. The last right
    cube terminates and succeeds; the clock truncates.

    The best return is 1. The sizes, the rewards and the several cubes of an episode are ours.
    """

    metadata: ClassVar[dict[str, Any]] = {**BatchedTask.metadata, "render_fps": 4}

    def __init__(
        self,
        num_envs: int = 1,
        level: str = "easy",
        grid_size: int = 3,
        num_cubes: int = 3,
        num_targets: int = 5,
        teleport_probability: float | None = None,
    ) -> None:
        """The task at one of its levels.

        Args:
            num_envs: Environments stepped together.
            level: "easy", "medium" or "hard".
            grid_size: Cells along a side of the grid.
            num_cubes: Cubes on the grid, each of another colour.
            num_targets: Cubes to be taken in an episode.
            teleport_probability: How likely a cube teleports at each step, instead of the level's.
        """
        rules = choose("ColorCubes: level", level, LEVELS)
        self.num_envs = in_range("ColorCubes: num_envs", num_envs, 1)
        self.grid_size = in_range("ColorCubes: grid_size", grid_size, 2)
        num_cells = grid_size**2
        most = min(len(CUBE_COLORS), num_cells - 1)
        self.num_cubes = in_range("ColorCubes: num_cubes", num_cubes, 2, most)
        self.num_targets = in_range("ColorCubes: num_targets", num_targets, 1)
        self._probability = setting(
            "ColorCubes: teleport_probability", teleport_probability, rules.probability, 0.0, 1.0
        )
        self._colors_after_teleports = rules.colors_are_seen
        # twice as many as the longest way to each cube has
        self.max_steps = 4 * grid_size * num_targets
        self.observation_space = spaces.MultiDiscrete(
            [num_cells, num_cubes + 1] + [num_cells + 1] * num_cubes
        )
        self.action_space = spaces.Discrete(len(MOVES))
        self._cells = np.zeros((num_envs, num_cubes), dtype=np.int64)
        self._targets = np.zeros((num_envs, num_targets), dtype=np.int64)
        # of each step: a number below the probability teleports; which cube, and to which cell
        self._chance = np.zeros((num_envs, self.max_steps, 3))
        self._agent = np.zeros(num_envs, dtype=np.int64)
        self._num_taken = np.zeros(num_envs, dtype=np.int64)
        self._is_shown = np.zeros(num_envs, dtype=bool)
        # whether the cube just taken was right; -1 if none was taken
        self._right = np.full(num_envs, -1)
        self._time = np.zeros(num_envs, dtype=np.int64)
        self._rows = constant(np.arange(num_envs))

    @override
    def begin(self, rows: Int[np.ndarray, " R"], generators: Sequence[np.random.Generator]) -> None:
        for row, generator in zip(rows, generators, strict=True):
            num_cells = self.grid_size**2
            self._cells[row] = generator.permutation(num_cells)[: self.num_cubes]
            self._agent[row] = generator.integers(num_cells)
            # each target is another cube than the one before
            steps = generator.integers(1, self.num_cubes, size=self.num_targets)
            steps[0] = generator.integers(self.num_cubes)
            self._targets[row] = np.cumsum(steps) % self.num_cubes
            self._chance[row] = generator.random((self.max_steps, 3))
        self._num_taken[rows] = 0
        self._is_shown[rows] = True
        self._right[rows] = -1
        self._time[rows] = 0

    @override
    def advance(self, action: Int[np.ndarray, " N"]) -> Outcome:
        takes = action == TAKE
        right = takes & (self._cells[self._rows, self._target()] == self._agent)
        place = np.stack(np.divmod(self._agent, self.grid_size), axis=1) + MOVES[action]
        row, column = np.clip(place, 0, self.grid_size - 1).T
        self._agent = row * self.grid_size + column
        self._right = np.where(takes, right, -1)
        self._num_taken = self._num_taken + right
        success = self.success()
        terminated = takes & ~right | success
        self._is_shown = self._chance[self._rows, self._time, 0] < self._probability
        for teleporting in np.flatnonzero(self._is_shown & ~terminated).tolist():
            self._teleport(teleporting)
        self._time += 1
        reward = np.where(right, np.float32(1 / self.num_targets), np.float32(0))
        return reward, terminated, ~terminated & (self._time >= self.max_steps)

    def _teleport(self, row: int) -> None:
        """Move one of the cubes that are not asked for to a cell without a cube."""
        _, which, where = self._chance[row, self._time[row]].tolist()
        others = np.delete(np.arange(self.num_cubes), self._target()[row])
        free = np.setdiff1d(np.arange(self.grid_size**2), self._cells[row])
        self._cells[row, others[int(which * len(others))]] = free[int(where * len(free))]

    @override
    def observe(self) -> Int64[np.ndarray, "N columns"]:
        cells = self._cells
        if not self._colors_after_teleports:
            cells = np.where((self._time > 0)[:, None], np.sort(cells, axis=1), cells)
        shown = self._is_shown[:, None]
        cells = np.where(shown, cells, self.grid_size**2)
        target = np.where(shown, self.num_cubes, self._target()[:, None])
        return np.concatenate([self._agent[:, None], target, cells], axis=1)

    @override
    def picture(self, row: int) -> Picture:
        time, right = int(self._time[row]), int(self._right[row])
        is_shown = bool(self._is_shown[row])
        cubes = Cubes(
            grid_size=self.grid_size,
            cells=self._cells[row].tolist(),
            cells_are_seen=is_shown,
            colors_are_seen=is_shown and (time == 0 or self._colors_after_teleports),
            agent=int(self._agent[row]),
            target=int(self._target()[row]),
            right=None if right < 0 else bool(right),
            note=f"{self._num_taken[row]} of {self.num_targets} taken; small: not seen now",
            time_left=1 - time / self.max_steps,
        )
        return cubes_on_grid(cubes)

    @override
    def success(self) -> Bool[np.ndarray, " N"]:
        return self._num_taken == self.num_targets

    def _target(self) -> Int[np.ndarray, " N"]:
        """The cubes asked for; the last one after the end."""
        return self._targets[self._rows, np.minimum(self._num_taken, self.num_targets - 1)]
