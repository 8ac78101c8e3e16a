"""The state of any memory, whatever it holds: map, select, take rows, detach.

A state is a tensor, None, or a (named) tuple or dictionary of states; its leaves are tensors, batch
first. The same functions serve observations and actions, which nest in the same way.

Annotations use these letters for axes, with one meaning each in the whole project. The batch is
the first axis everywhere; batch and time are never transposed.

======  ==========================================================================
letter  axis
======  ==========================================================================
``B``   streams in a batch (``N`` in ``agents`` and ``envs``: environments)
``T``   time steps
``C``   time steps in one chunk of a chunked kernel
``D``   features of a layer's input
``E``   features of a layer's output
``H``   heads
``K``   features of a key or query, after the feature map: the rows of the fast weights
``V``   size of a value: the columns of the fast weights
``M``   features that a feature map makes of its input
``A``   numbers that describe one action, or its logits
``F``   fields of the tokens at one time
``P``   processes that train together
======  ==========================================================================
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# The memory of a stream: a query reads it by ``query @ weights``.
FastWeights = Float[Tensor, "B H K V"]

# A nested type that holds tensors; the functions return what they were given.
Tree = TypeVar("Tree")


def map_tensors(function: Callable[..., Tensor], tree: Tree, *others: Tree) -> Tree:
    """The same nesting with ``function`` applied to every leaf (of all the given trees)."""
    if isinstance(tree, Tensor):
        return cast(Tree, function(tree, *others))
    if tree is None:
        return tree
    nodes = cast(tuple[Any, ...], others)
    if isinstance(tree, tuple):
        items = cast(tuple[Any, ...], tree)
        mapped = [map_tensors(function, *leaves) for leaves in zip(items, *nodes, strict=True)]
        return cast(Tree, getattr(cast(Any, type(items)), "_make", tuple)(mapped))
    if not isinstance(tree, Mapping):
        raise TypeError(f"a state is a tensor, a tuple or a dictionary, not {type(tree).__name__}")
    mapping = cast(Mapping[str, Any], tree)
    return cast(
        Tree,
        {k: map_tensors(function, v, *(node[k] for node in nodes)) for k, v in mapping.items()},
    )


def tensors_in(tree: Any) -> list[Tensor]:
    """The leaves, from left to right."""
    leaves: list[Tensor] = []
    map_tensors(partial(_remember, leaves), tree)
    return leaves


def _remember(leaves: list[Tensor], leaf: Tensor) -> Tensor:
    leaves.append(leaf)
    return leaf


def where_state(starts: Bool[Tensor, " B"], fresh: Tree, state: Tree) -> Tree:
    """``fresh`` in the rows that start, ``state`` in the others.

    It selects and never multiplies: an infinite or undefined past does not leak into a row that
    starts.
    """
    return map_tensors(partial(_select, starts), fresh, state)


def _select(starts: Bool[Tensor, " B"], new: Tensor, old: Tensor) -> Tensor:
    return torch.where(starts.view(-1, *(1,) * (old.dim() - 1)), new, old)


def take_rows(tree: Tree, rows: Int[Tensor, " R"] | slice) -> Tree:
    """The given rows of the batch."""
    return map_tensors(partial(_take, rows), tree)


def _take(rows: Int[Tensor, " R"] | slice, leaf: Tensor) -> Tensor:
    return leaf[rows]


def detach_state(state: Tree) -> Tree:
    """The same numbers, with no gradient through them."""
    return map_tensors(torch.Tensor.detach, state)


def one_before(
    first: Float[Tensor, " B *E"],
    later: Float[Tensor, "B T *E"],
    starts: Bool[Tensor, "B T"] | None,
) -> Float[Tensor, "B T *E"]:
    """The tensor one time earlier: ``first`` at the first time, zeros where an episode starts."""
    found = torch.cat([first.unsqueeze(1), later[:, :-1]], dim=1)
    if starts is None:
        return found
    return found.masked_fill(starts.view(starts.shape + (1,) * (found.dim() - 2)), 0.0)


def time_in_episode(starts: Bool[Tensor, "B T"], before: Float[Tensor, " B"]) -> Tensor:
    """The number of each time within its episode: ``[B, T]``, from 1 up.

    Args:
        starts: The times that open an episode.
        before: The number of times that the open episodes had before the first one here.
    """
    if starts.shape[1] == 1:
        return torch.where(starts, 1.0, before.unsqueeze(1) + 1)
    index = torch.arange(1, starts.shape[1] + 1, device=starts.device, dtype=before.dtype)
    opened = torch.where(starts, index, 0.0).cummax(dim=1).values
    return torch.where(opened > 0, index - opened + 1, before.unsqueeze(1) + index)


def at_least_float32(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """The same numbers, in float64 if they are, else in float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def in_one_precision(tree: Tree, like: Tensor) -> Tree:
    """The same numbers, in float64 if those of ``like`` are, else in float32; booleans stay."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return map_tensors(partial(_convert, dtype), tree)


def _convert(dtype: torch.dtype, x: Tensor) -> Tensor:
    return x if x.dtype in (dtype, torch.bool) else x.to(dtype)


def may_look(x: Tensor) -> bool:
    """Whether the numbers of ``x`` may decide what is computed; otherwise masks serve all cases.

    On a GPU reading a number waits for all queued work, and no graph of such work can be captured;
    an exported program is made before there are numbers.
    """
    return not (x.is_cuda or torch.compiler.is_exporting())


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A block that computes in the precision of its inputs; free where autocast is off already."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
