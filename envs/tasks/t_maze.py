"""The T-maze: a cue at the start tells which way to turn at the far end of a corridor."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Int, Int8
from typing_extensions import override

from envs.tasks.batched import BatchedTask, Outcome, constant
from envs.tasks.drawing.canvas import Picture
from envs.tasks.drawing.pictures import Maze, t_maze
from envs.tasks.parameters import choose, in_range, setting

UP, DOWN, LEFT, RIGHT = range(4)
# the change of position by each action
MOVES = np.array([0, 0, -1, 1])
CORRECT_TURN = 4.0
STANDING = -0.1

# the shortest default time limit
TIME_LIMIT = 1000
# bits of AGaLiTe's positions; a corridor too long for them has more
POSITION_BITS = 8


class Rules(NamedTuple):
    """The differences between variants of the maze; the first two are rewards."""

    wrong_turn: float
    moving: float
    # whether the junction can only be left by turning
    junction_holds: bool
    num_distractors: int


RULES = {
    "bakker": Rules(wrong_turn=-0.1, moving=0.0, junction_holds=False, num_distractors=0),
    "agalite": Rules(wrong_turn=-1.0, moving=-0.1, junction_holds=True, num_distractors=6),
}


class TMaze(BatchedTask):
    """Walk to the junction and turn as the cue at the start said: up (0) or down (1).

    "bakker" (Bakker 2002) shows three bits that tell start, corridor and junction apart; the cue is
    part of what the start looks like, also when the agent comes back to it. "agalite" (Pramanik et
    al. 2023) shows two bits of cue, at the first time only, then the position as a Gray code, then
    random bits; every step costs. A turn terminates, the clock truncates; the right turn succeeds.

    The best return is 4 for "bakker" and 4 - 0.1 (corridor_length - 1) for "agalite".
    """

    metadata: ClassVar[dict[str, Any]] = {**BatchedTask.metadata, "render_fps": 8}

    def __init__(
        self,
        num_envs: int = 1,
        variant: str = "agalite",
        corridor_length: int = 10,
        time_limit: int | None = None,
        num_distractors: int | None = None,
    ) -> None:
        """The task in one of its variants.

        Args:
            num_envs: Environments stepped together.
            variant: "bakker" or "agalite".
            corridor_length: Squares from the start to the junction, both included.
            time_limit: Steps after which the clock truncates an episode; None is 1000, or five
                times the length of a longer corridor.
            num_distractors: Random bits in every observation but the first, at most 8; None is the
                variant's number.
        """
        self.rules = choose("TMaze: variant", variant, RULES)
        self.num_envs = in_range("TMaze: num_envs", num_envs, 1)
        self.corridor_length = in_range("TMaze: corridor_length", corridor_length, 2)
        longest = max(TIME_LIMIT, 5 * corridor_length)
        self.time_limit = setting("TMaze: time_limit", time_limit, longest, 1)
        distractors = setting(
            "TMaze: num_distractors", num_distractors, self.rules.num_distractors, 0, 8
        )
        # indexed by whether it is the first observation, cue, and position
        self._looks = constant(LOOKS[variant](corridor_length))
        self._distractor_bits = constant(bits(np.arange(2**distractors), distractors))
        self.observation_space = spaces.MultiBinary(self._looks.shape[-1] + distractors)
        self.action_space = spaces.Discrete(4)
        self._cue = np.zeros(num_envs, dtype=np.int64)
        self._position = np.zeros(num_envs, dtype=np.int64)
        self._time = np.zeros(num_envs, dtype=np.int64)
        self._distractors = np.zeros((num_envs, self.time_limit + 1), dtype=np.uint8)
        self._turned = np.zeros(num_envs, dtype=bool)
        self._success = np.zeros(num_envs, dtype=bool)
        self._rows = constant(np.arange(num_envs))

    @override
    def begin(self, rows: Int[np.ndarray, " R"], generators: Sequence[np.random.Generator]) -> None:
        for row, generator in zip(rows, generators, strict=True):
            self._cue[row] = generator.integers(2)
            self._distractors[row, 1:] = generator.integers(
                len(self._distractor_bits), size=self.time_limit, dtype=np.uint8
            )
        self._position[rows] = 0
        self._turned[rows] = False
        self._time[rows] = 0

    @override
    def advance(self, action: Int[np.ndarray, " N"]) -> Outcome:
        junction = self.corridor_length - 1
        at_junction = self._position == junction
        turned = at_junction & (action <= DOWN)
        self._success = turned & (action == self._cue)
        move = MOVES[action] * ~at_junction if self.rules.junction_holds else MOVES[action]
        position = np.clip(self._position + move, 0, junction)
        reward = np.where(position == self._position, STANDING, self.rules.moving)
        reward[turned] = self.rules.wrong_turn
        reward[self._success] = CORRECT_TURN
        self._position = position
        # a copy, as the next episode clears it while the caller keeps the flags
        self._turned = turned.copy()
        self._time += 1
        return reward.astype(np.float32), turned, ~turned & (self._time >= self.time_limit)

    @override
    def observe(self) -> Int8[np.ndarray, "N bits"]:
        look = self._looks[self._is_first(), self._cue, self._position]
        distractors = self._distractor_bits[self._distractors[self._rows, self._time]]
        return np.concatenate([look, distractors], axis=1)

    @override
    def picture(self, row: int) -> Picture:
        position, cue = int(self._position[row]), int(self._cue[row])
        looks = self._looks[self._is_first()[row], :, position]
        arm = cue if self._success[row] else 1 - cue
        maze = Maze(
            squares=self.corridor_length,
            position=position,
            cue=cue,
            note=f"square {position + 1} of {self.corridor_length}",
            cue_is_seen=bool((looks[UP] != looks[DOWN]).any()),
            arm=arm if self._turned[row] else None,
            time_left=1 - int(self._time[row]) / self.time_limit,
        )
        return t_maze(maze)

    def _is_first(self) -> Int[np.ndarray, " N"]:
        """1 where the observation is the episode's first."""
        return (self._time == 0).astype(np.int64)

    @override
    def success(self) -> Bool[np.ndarray, " N"]:
        return self._success


def bits(numbers: Int[np.ndarray, " numbers"], size: int) -> Int8[np.ndarray, "numbers {size}"]:
    """The numbers in binary, the highest of their ``size`` bits first."""
    return (numbers[:, None] >> np.arange(size)[::-1] & 1).astype(np.int8)


def bakker_looks(corridor_length: int) -> Int8[np.ndarray, "2 2 length 3"]:
    """Bakker's observation at each position, for either cue, whether it is the first or not."""
    looks = np.empty((2, 2, corridor_length, 3), dtype=np.int8)
    looks[:] = (1, 0, 1)
    looks[:, UP, 0] = (0, 1, 1)
    looks[:, DOWN, 0] = (1, 1, 0)
    looks[:, :, -1] = (0, 1, 0)
    return looks


def agalite_looks(corridor_length: int) -> Int8[np.ndarray, "2 2 length bits"]:
    """The cue, if this is the first observation, and the position as a Gray code."""
    positions = np.arange(corridor_length)
    size = max(POSITION_BITS, (corridor_length - 1).bit_length())
    looks = np.zeros((2, 2, corridor_length, 2 + size), dtype=np.int8)
    looks[1, UP, :, :2] = (0, 1)
    looks[1, DOWN, :, :2] = (1, 0)
    looks[:, :, :, 2:] = bits(positions ^ (positions >> 1), size)
    return looks


LOOKS = {"bakker": bakker_looks, "agalite": agalite_looks}
