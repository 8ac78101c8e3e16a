"""Environments that answer with tensors on the policy's device, and their episodes.

A rollout asks the device for nothing while it acts: what the host wants to know of its episodes,
and whether the policy's output was finite, is fetched once, at its end.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from numpy.typing import NDArray
from torch import Tensor


@runtime_checkable
class DeviceStep(Protocol):
    """The answer of N environments to a step, as tensors; otherwise like ``EnvStep``."""

    @property
    def observation(self) -> Any:
        """Tensors over N; where an episode ended, the first observation of the next one."""
        ...

    @property
    def reward(self) -> Tensor:
        """Raw rewards over N."""
        ...

    @property
    def terminated(self) -> Tensor:
        """Flags over N: the task ended the episode."""
        ...

    @property
    def truncated(self) -> Tensor | None:
        """Flags over N: a time limit ended the episode. None if no time limit ever does."""
        ...

    @property
    def final_observation(self) -> Any:
        """Tensors over N, valid where an episode ended."""
        ...

    @property
    def success(self) -> Tensor | None:
        """Flags over N, valid where an episode ended; None if the environment does not tell."""
        ...


@runtime_checkable
class DeviceEnv(Protocol):
    """Environments that are stepped on a device, beside being an ordinary ``VectorEnv``."""

    def step_on_device(self, action: Shaped[Tensor, "N ..."]) -> DeviceStep:
        """Step all environments on the device of the actions."""
        ...


class HostStep(NamedTuple):
    """The part of a step that the host counts: arrays over N."""

    reward: NDArray[Any]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    success: NDArray[np.bool_] | None
    faults: Mapping[int, str] = MappingProxyType({})
    vacant: NDArray[np.bool_] | None = None


def ended(step: Any) -> Bool[Tensor, " N"] | NDArray[np.bool_]:
    """Where a step, of tensors or of arrays, ended an episode."""
    return step.terminated if step.truncated is None else step.terminated | step.truncated


def fetched(steps: Sequence[DeviceStep]) -> list[HostStep]:
    """The steps on the host, for one transfer of each of their parts."""

    def arrays(name: str) -> NDArray[Any] | None:
        parts = [getattr(step, name) for step in steps]
        return None if any(part is None for part in parts) else torch.stack(parts).cpu().numpy()

    reward, terminated = arrays("reward"), arrays("terminated")
    truncated, success = arrays("truncated"), arrays("success")
    assert reward is not None, "every step has a reward"
    assert terminated is not None, "every step says what ended"
    truncated = np.zeros_like(terminated) if truncated is None else truncated
    successes = [None] * len(steps) if success is None else success
    return [
        HostStep(*parts) for parts in zip(reward, terminated, truncated, successes, strict=True)
    ]
