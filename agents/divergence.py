"""Explanations of an output that is not finite."""

import math
from typing import Any

from torch import Tensor, nn

from agents.policy_data import PolicyInput


def cause(policy: nn.Module, inputs: PolicyInput) -> str:
    """The first part of a policy that is not finite, or else the largest of its inputs."""
    for name, leaf in policy.state_dict().items():
        if leaf.is_floating_point() and not bool(leaf.isfinite().all()):
            return f"its {name} is not"
    parts = _named_leaves(inputs.observation, "observation")
    sizes = {name: _largest(leaf) for name, leaf in parts.items()}
    sizes["previous reward"] = _largest(inputs.previous_reward)
    name = max(sizes, key=lambda each: (not math.isfinite(sizes[each]), sizes[each]))
    return f"its parameters are; {name} reaches {sizes[name]:.3g}"


def _named_leaves(tree: Any, name: str) -> dict[str, Tensor]:
    """The leaves of an observation by their paths."""
    if isinstance(tree, Tensor):
        return {name: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {
        path: leaf
        for key, part in items
        for path, leaf in _named_leaves(part, f"{name}.{key}").items()
    }


def _largest(leaf: Tensor) -> float:
    return float(leaf.detach().double().abs().max()) if leaf.numel() else 0.0
