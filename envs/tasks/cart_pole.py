"""Cart-pole that shows where things are but not how fast they move (POPGym, Morad et al. 2023).

The physics is that of Gymnasium's CartPole (Barto, Sutton & Anderson 1983): explicit Euler steps.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Float32, Float64, Int
from typing_extensions import override

from envs.tasks.batched import BatchedTask, Outcome, constant
from envs.tasks.drawing.canvas import Picture
from envs.tasks.drawing.pictures import Limits, Pole, cart_pole
from envs.tasks.parameters import choose, in_range, setting

GRAVITY = 9.8
POLE_MASS = 0.1
TOTAL_MASS = 1.1
# half the length of the pole
LENGTH = 0.5
FORCE = 10.0
SECONDS_PER_STEP = 0.02
POSITION_LIMIT = 2.4
ANGLE_LIMIT = 12 * 2 * np.pi / 360
# bound on each of the four numbers when an episode begins
START = 0.05

# steps in an episode
STATELESS_LEVELS = {"easy": 200, "medium": 400, "hard": 600}
# standard deviation of the noise
NOISY_LEVELS = {"easy": 0.1, "medium": 0.2, "hard": 0.3}
NOISY_STEPS = 200


class PositionOnlyCartPole(BatchedTask):
    """Keep a pole upright on a cart that is pushed to the left (0) or right (1).

    Seen are the cart's position and the pole's angle, never their velocities. Every step earns one
    over the length of a full episode: returns lie in (0, 1]. Falling terminates, the clock
    truncates; an episode succeeds if the pole stood to its end.
    """

    metadata: ClassVar[dict[str, Any]] = {
        **BatchedTask.metadata,
        "render_fps": round(1 / SECONDS_PER_STEP),
    }

    def __init__(self, num_envs: int, max_steps: int, noise: float) -> None:
        """The task at a noise level.

        Args:
            num_envs: Environments stepped together.
            max_steps: Steps after which an episode is truncated.
            noise: Standard deviation of the noise on both numbers of an observation, which is
                clipped to its space.
        """
        self.num_envs = in_range(f"{type(self).__name__}: num_envs", num_envs, 1)
        self._bound = constant(np.array([2 * POSITION_LIMIT, 2 * ANGLE_LIMIT], dtype=np.float32))
        self.observation_space = spaces.Box(-self._bound, self._bound, dtype=np.float32)
        self.action_space = spaces.Discrete(2)
        self.max_steps = max_steps
        self.noise = noise
        # position, velocity, angle, angular velocity
        self._physics = np.zeros((num_envs, 4))
        self._noise = np.zeros((num_envs, max_steps + 1, 2), dtype=np.float32)
        self._rows = constant(np.arange(num_envs))
        self._time = np.zeros(num_envs, dtype=np.int64)

    @override
    def begin(self, rows: Int[np.ndarray, " R"], generators: Sequence[np.random.Generator]) -> None:
        for row, generator in zip(rows, generators, strict=True):
            self._physics[row] = generator.uniform(-START, START, size=4)
            if self.noise:
                self._noise[row] = generator.normal(0, self.noise, size=self._noise.shape[1:])
        self._time[rows] = 0

    @override
    def advance(self, action: Int[np.ndarray, " N"]) -> Outcome:
        self._physics = moved(self._physics, np.where(action == 1, FORCE, -FORCE))
        self._time += 1
        reward = np.full(self.num_envs, 1 / self.max_steps, dtype=np.float32)
        return reward, self._fell(), self._time >= self.max_steps

    @override
    def observe(self) -> Float32[np.ndarray, "N 2"]:
        seen = self._physics[:, [0, 2]].astype(np.float32)
        if not self.noise:
            return seen
        return np.clip(seen + self._noise[self._rows, self._time], -self._bound, self._bound)

    @override
    def picture(self, row: int) -> Picture:
        position, _, angle, _ = self._physics[row].tolist()
        seen = Pole(*self.observe()[row].tolist()) if self.noise else None
        time_left = 1 - int(self._time[row]) / self.max_steps
        limits = Limits(POSITION_LIMIT, ANGLE_LIMIT)
        return cart_pole(Pole(position, angle), seen, limits, time_left)

    @override
    def success(self) -> Bool[np.ndarray, " N"]:
        return ~self._fell()

    def _fell(self) -> Bool[np.ndarray, " N"]:
        position, _, angle, _ = np.abs(self._physics.T)
        return (position > POSITION_LIMIT) | (angle > ANGLE_LIMIT)


def moved(
    physics: Float64[np.ndarray, "N 4"], force: Float64[np.ndarray, " N"]
) -> Float64[np.ndarray, "N 4"]:
    """Position, velocity, angle and angular velocity one step later."""
    _, velocity, angle, angular_velocity = physics.T
    sine, cosine = np.sin(angle), np.cos(angle)
    push = (force + POLE_MASS * LENGTH * angular_velocity**2 * sine) / TOTAL_MASS
    inertia = LENGTH * (4 / 3 - POLE_MASS * cosine**2 / TOTAL_MASS)
    angular_acceleration = (GRAVITY * sine - cosine * push) / inertia
    acceleration = push - POLE_MASS * LENGTH * angular_acceleration * cosine / TOTAL_MASS
    change = np.stack([velocity, acceleration, angular_velocity, angular_acceleration], axis=1)
    return physics + SECONDS_PER_STEP * change


class StatelessCartPole(PositionOnlyCartPole):
    """Position-only cart-pole without noise."""

    def __init__(
        self, num_envs: int = 1, level: str = "easy", max_steps: int | None = None
    ) -> None:
        """The task at one of its levels.

        Args:
            num_envs: Environments stepped together.
            level: "easy", "medium" or "hard" as in POPGym: how long to keep the pole upright.
            max_steps: Steps in a full episode, instead of the level's number.
        """
        steps = choose("StatelessCartPole: level", level, STATELESS_LEVELS)
        max_steps = setting("StatelessCartPole: max_steps", max_steps, steps, 1)
        super().__init__(num_envs, max_steps, noise=0.0)


class NoisyStatelessCartPole(PositionOnlyCartPole):
    """Position-only cart-pole whose observations are noisy."""

    def __init__(
        self,
        num_envs: int = 1,
        level: str = "easy",
        noise: float | None = None,
        max_steps: int | None = None,
    ) -> None:
        """The task at one of its levels.

        Args:
            num_envs: Environments stepped together.
            level: "easy", "medium" or "hard" as in POPGym: how noisy.
            noise: Standard deviation of the noise, instead of the level's.
            max_steps: Steps in a full episode, instead of POPGym's number.
        """
        of_level = choose("NoisyStatelessCartPole: level", level, NOISY_LEVELS)
        noise = setting("NoisyStatelessCartPole: noise", noise, of_level, 0.0)
        max_steps = setting("NoisyStatelessCartPole: max_steps", max_steps, NOISY_STEPS, 1)
        super().__init__(num_envs, max_steps, noise)
