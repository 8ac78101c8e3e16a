"""The state of any memory, whatever it holds: map, select, take rows, detach.

A state is a tensor or a (named) tuple or dictionary of states; its leaves are batch first. The
same functions serve observations and actions, which nest in the same way.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor

# A nested type that holds tensors; the functions return what they were given.
Tree = TypeVar("Tree")


def map_tensors(function: Callable[..., Tensor], tree: Tree, *others: Tree) -> Tree:
    """The same nesting with ``function`` applied to every leaf (of all the given trees)."""
    if isinstance(tree, Tensor):
        return cast(Tree, function(tree, *others))
    nodes = cast(tuple[Any, ...], others)
    if isinstance(tree, Mapping):
        mapping = cast(Mapping[str, Any], tree)
        return cast(
            Tree,
            {k: map_tensors(function, v, *(node[k] for node in nodes)) for k, v in mapping.items()},
        )
    if not isinstance(tree, tuple):
        raise TypeError(f"a state is a tensor, a tuple or a dictionary, not {type(tree).__name__}")
    items = cast(tuple[Any, ...], tree)
    mapped = [map_tensors(function, *leaves) for leaves in zip(items, *nodes, strict=True)]
    make = getattr(cast(Any, type(items)), "_make", tuple)
    return cast(Tree, make(mapped))


def tensors_in(tree: Any) -> list[Tensor]:
    """The leaves, from left to right."""
    leaves: list[Tensor] = []

    def remember(leaf: Tensor) -> Tensor:
        leaves.append(leaf)
        return leaf

    map_tensors(remember, tree)
    return leaves


def where_state(starts: Bool[Tensor, " B"], fresh: Tree, state: Tree) -> Tree:
    """``fresh`` in the rows that start, ``state`` in the others.

    It selects and never multiplies: an infinite or undefined past does not leak into a row that
    starts.
    """

    def select(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(starts.view(-1, *(1,) * (old.dim() - 1)), new, old)

    return map_tensors(select, fresh, state)


def take_rows(tree: Tree, rows: Int[Tensor, " R"] | slice) -> Tree:
    """The given rows of the batch."""

    def take(leaf: Tensor) -> Tensor:
        return leaf[rows]

    return map_tensors(take, tree)


def detach_state(state: Tree) -> Tree:
    """The same numbers, with no gradient through them."""
    return map_tensors(torch.Tensor.detach, state)
