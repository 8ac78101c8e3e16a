"""The contract of our own tasks, and two adapters that make them Gymnasium environments.

A task steps its N environments together, as NumPy arrays. All random numbers of an episode are
drawn when it begins, from the generator of its row, and never depend on the agent's actions: N
environments stepped together equal N environments stepped alone, and episodes can be replayed.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, Float32, Int, Int64
from numpy.typing import NDArray
from typing_extensions import override

from envs.tasks.drawing.canvas import Picture
from envs.workers.replay import check_fit

# arrays of N rows, nested as the observation space is
Observation: TypeAlias = NDArray[Any] | tuple[Any, ...] | dict[str, Any]
# reward, terminated and truncated of one step
Outcome: TypeAlias = tuple[
    Float32[np.ndarray, " N"], Bool[np.ndarray, " N"], Bool[np.ndarray, " N"]
]


class BatchedTask(ABC):
    """N independent environments of one task; every call returns new arrays.

    The caller calls ``begin`` for rows that terminated or were truncated before it advances them
    again. All state of an episode is in attributes that are arrays over N; arrays that never change
    are ``constant``.
    """

    # declares to Gymnasium how pictures are rendered
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 4}

    num_envs: int
    # the spaces of one environment
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]

    @abstractmethod
    def begin(self, rows: Int[np.ndarray, " R"], generators: Sequence[np.random.Generator]) -> None:
        """Open a new episode in each of ``rows``, with random numbers from the row's generator."""

    @abstractmethod
    def advance(self, action: Int[np.ndarray, " N"]) -> Outcome:
        """Step all environments; returns reward, terminated and truncated."""

    @abstractmethod
    def observe(self) -> Observation:
        """The observations after ``begin`` or ``advance``."""

    @abstractmethod
    def picture(self, row: int) -> Picture:
        """A picture of one environment for people, which may show more than the agent sees."""

    def success(self) -> Bool[np.ndarray, " N"] | None:
        """Whether the episodes that just ended succeeded; None if the task defines no success."""
        return None

    def changing(self) -> dict[str, NDArray[Any]]:
        """The state of the episodes, by attribute."""
        arrays = {n: value for n, value in vars(self).items() if isinstance(value, np.ndarray)}
        return {name: array for name, array in arrays.items() if array.flags.writeable}


def constant(array: NDArray[Any]) -> NDArray[Any]:
    """The same array, made read-only."""
    array.flags.writeable = False
    return array


class TaskVectorEnv(VectorEnv[Any, Any, NDArray[Any]]):
    """N environments of a task as a Gymnasium vector environment with same-step auto-reset.

    Where an episode ended, the observation is the first of the next one. As in Gymnasium's own
    vector environments ``info["final_obs"]`` holds the final observation, here as one dense batch
    whose rows are valid where ``info["_final_obs"]`` is True.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        **BatchedTask.metadata,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(self, task: BatchedTask, render_mode: str | None = None) -> None:
        self.metadata = {**type(self).metadata, **task.metadata}
        self.render_mode = _checked(render_mode)
        self.task = task
        self.num_envs = task.num_envs
        self.single_observation_space = task.observation_space
        self.single_action_space = task.action_space
        self.observation_space = batch_space(task.observation_space, task.num_envs)
        self.action_space = batch_space(task.action_space, task.num_envs)
        self._generators = [np.random.default_rng() for _ in range(task.num_envs)]

    @override
    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """New episodes in all rows, or in those where ``options["reset_mask"]`` is True.

        Args:
            seed: Row i is seeded with seed + i, or with the i-th of a sequence; None: the
                generators continue.
            options: None, or a boolean array over N under "reset_mask".
        """
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        if np.shape(mask) != (self.num_envs,):
            raise ValueError(
                f"options['reset_mask'] has shape {np.shape(mask)}; it should be ({self.num_envs},)"
            )
        seeds = [seed] * self.num_envs if seed is None else seed
        if isinstance(seeds, int):
            seeds = range(seeds, seeds + self.num_envs)
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed has {len(seeds)} entries; it should have {self.num_envs}")
        for row, (begins, row_seed) in enumerate(zip(mask, seeds, strict=True)):
            if begins and row_seed is not None:
                self._generators[row] = np.random.default_rng(row_seed)
        self._begin(np.flatnonzero(mask))
        return self.task.observe(), {}

    @override
    def step(
        self, actions: Any
    ) -> tuple[Observation, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        action = np.asarray(actions)
        if action.shape != (self.num_envs,):
            raise ValueError(f"actions have shape {action.shape}; it should be ({self.num_envs},)")
        reward, terminated, truncated = self.task.advance(action)
        observation = self.task.observe()
        last = terminated | truncated
        info: dict[str, Any] = {}
        if np.count_nonzero(last):
            final_info = self._final_info(last)
            info = {"final_obs": observation, "_final_obs": last} | final_info
            info |= {"final_info": final_info, "_final_info": last}
            self._begin(np.flatnonzero(last))
            observation = self.task.observe()
        return observation, reward, terminated, truncated, info

    @override
    def render(self) -> tuple[Picture, ...] | None:
        if self.render_mode is None:
            return None
        return tuple(self.task.picture(row) for row in range(self.num_envs))

    def state(self) -> dict[str, NDArray[Any]]:
        """Copies of all state that determines the next steps and episodes."""
        arrays = {f"task.{name}": array for name, array in self.task.changing().items()}
        arrays["generator"] = np.stack([_words(generator) for generator in self._generators])
        return {name: np.array(array, order="C") for name, array in arrays.items()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> Observation:
        """Continue from a state of N environments of the same task; returns their observations.

        Raises:
            ValueError: If the state does not fit.
        """
        check_fit(state, self.state())
        for name in self.task.changing():
            setattr(self.task, name, state[f"task.{name}"].copy())
        self._generators = [_from_words(words) for words in state["generator"]]
        return self.task.observe()

    def _begin(self, rows: Int[np.ndarray, " R"]) -> None:
        self.task.begin(rows, [self._generators[row] for row in rows.tolist()])

    def _final_info(self, last: Bool[np.ndarray, " N"]) -> dict[str, Any]:
        success = self.task.success()
        return {} if success is None else {"is_success": success & last, "_is_success": last}


class TaskEnv(gymnasium.Env[Any, Any]):
    """One environment of a task: a batch of one without its batch axis."""

    metadata = BatchedTask.metadata

    def __init__(self, task: BatchedTask, render_mode: str | None = None) -> None:
        assert task.num_envs == 1, "a single environment needs a task with one row"
        self.metadata = task.metadata
        self.render_mode = _checked(render_mode)
        self.task = task
        self.observation_space = task.observation_space
        self.action_space = task.action_space

    @override
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.task.begin(np.zeros(1, dtype=np.int64), [self.np_random])
        return _only_row(self.task.observe()), {}

    @override
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward, terminated, truncated = self.task.advance(np.asarray(action).reshape(1))
        success = self.task.success() if terminated[0] or truncated[0] else None
        info = {} if success is None else {"is_success": bool(success[0])}
        observation = _only_row(self.task.observe())
        return observation, float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

    @override
    def render(self) -> Picture | None:
        return None if self.render_mode is None else self.task.picture(0)


def _words(generator: np.random.Generator) -> Int64[np.ndarray, "6"]:
    """The state of a generator in words of 64 bits."""
    inner: Any = generator.bit_generator.state
    numbers = inner["state"]["state"], inner["state"]["inc"]
    halves = [half for number in numbers for half in (number >> 64, number % 2**64)]
    words = np.array([*halves, inner["has_uint32"], inner["uinteger"]], np.uint64)
    return words.view(np.int64)


def _from_words(words: Int64[np.ndarray, "6"]) -> np.random.Generator:
    high, low, high_step, low_step, has_half, half = words.view(np.uint64).tolist()
    generator = np.random.default_rng(0)
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": high << 64 | low, "inc": high_step << 64 | low_step},
        "has_uint32": has_half,
        "uinteger": half,
    }
    return generator


def _checked(render_mode: str | None) -> str | None:
    if render_mode not in (None, "rgb_array"):
        raise ValueError(
            f"render_mode is {render_mode!r}; it should be 'rgb_array' or None "
            "(gymnasium.wrappers.HumanRendering shows what 'rgb_array' draws)"
        )
    return render_mode


def _only_row(tree: Any) -> Any:
    if isinstance(tree, tuple):
        return tuple(_only_row(item) for item in cast(tuple[Any, ...], tree))
    if isinstance(tree, Mapping):
        return {key: _only_row(item) for key, item in cast(Mapping[str, Any], tree).items()}
    return tree[0]
