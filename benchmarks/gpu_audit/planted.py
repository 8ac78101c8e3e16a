"""Faults that the audit must find: it is worth nothing if it passes with one of them."""

# Triton does not read annotations other than its own
# ruff: noqa: ANN001, ANN201

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import triton
import triton.language as tl
from torch import Tensor

from agents.policy import PolicyConfig
from benchmarks.gpu_audit.agents_on_device import acts_and_learns, collects_and_updates
from benchmarks.gpu_audit.kernels import Launch, compiled, complaint
from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.cores.gru import GRU, GRUConfig
from fwrl.kernels.chunked import gradient


@triton.jit
def spilling(pointer, SIZE: tl.constexpr):
    """Keeps more numbers than one warp has registers."""
    i = tl.arange(0, SIZE)
    x = tl.load(pointer + i)
    tl.store(pointer + i, x - tl.sum(x, axis=0))


@contextmanager
def after(owner: Any, name: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """A block in which what a function returns is changed."""
    function = getattr(owner, name)

    def changed(*args: Any, **kwargs: Any) -> Any:
        return change(function(*args, **kwargs))

    with patch.object(owner, name, changed):
        yield


def from_the_cpu(outcome: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Adds a vector that was made on the CPU."""
    y, state = outcome
    return y + torch.ones(y.shape[-1], device="cpu"), state


def asked(outcome: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Looks at a number."""
    y, state = outcome
    return y * (1.0 if y.sum().item() > 0 else 2.0), state


def fetched(outcome: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Goes over the CPU and back."""
    y, state = outcome
    return y.cpu().cuda(), state


def on_the_cpu(gradients: list[Tensor]) -> list[Tensor]:
    """Makes the first gradient on the wrong device."""
    return [torch.zeros(gradients[0].shape, device="cpu"), *gradients[1:]]


def _in_gru(change: Callable[[Any], Any]) -> None:
    with after(GRU, "_advance", change):
        acts_and_learns(PolicyConfig(core=GRUConfig()))


def _in_a_gradient() -> None:
    with after(gradient, "_by_hand", on_the_cpu):
        acts_and_learns(PolicyConfig(core=FastWeightConfig()))


def _in_a_rollout() -> None:
    with after(torch, "stack", lambda stacked: stacked * float(stacked.sum())):
        collects_and_updates()


def _in_a_kernel() -> None:
    launch = Launch("spilling", (("pointer", "*fp32"),), (("SIZE", 2**15),), (("num_warps", 1),))
    found = complaint(compiled(launch, 90, sys.modules[__name__]))
    assert found is None, found


PLANTED: dict[str, Callable[[], None]] = {
    "a tensor made on the CPU": lambda: _in_gru(from_the_cpu),
    "a question to the device": lambda: _in_gru(asked),
    "a way over the CPU and back": lambda: _in_gru(fetched),
    "a gradient by hand on the CPU": _in_a_gradient,
    "a question in a rollout": _in_a_rollout,
    "a kernel that spills": _in_a_kernel,
}
