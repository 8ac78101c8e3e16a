"""A policy as an ONNX file: one step, with the memory as explicit inputs and outputs.

Whoever runs it needs neither PyTorch nor this library: the outputs ``next_memory.*`` of a step are
the inputs ``memory.*`` of the next one, and where ``elapsed`` is 0 the memory begins anew inside.
"""

import json
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from gymnasium.vector.utils import batch_space
from torch import Tensor, nn
from typing_extensions import override

from agents.policy import PolicyInput, RecurrentPolicy
from agents.rollout import to_tensors
from agents.saving import describe_policy
from fwrl.config import ConfigError
from fwrl.kernels import use_kernel
from fwrl.state import map_tensors, tensors_in

PACKAGES = ("onnx", "onnxscript")
# Rows of the example that is traced: with one a tracer would take the batch for a constant.
ROWS = 2


class _Step(nn.Module):
    """The policy's step from tensors to tensors; of a nested state those that hold something."""

    def __init__(self, policy: RecurrentPolicy, example: tuple[PolicyInput, Any]) -> None:
        super().__init__()
        self.policy = policy
        # tensors that are also inputs of the trace would be constants of it, with their batch
        self.example = map_tensors(lambda leaf: leaf.to("meta"), example)

    @override
    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        given = iter(leaves)
        batch = leaves[0].shape[0]

        def take(leaf: Tensor) -> Tensor:
            if leaf.shape[1:].numel():
                return next(given)
            return torch.zeros(batch, *leaf.shape[1:], dtype=leaf.dtype)

        inputs, memory = map_tensors(take, self.example)
        output, memory = self.policy.step(inputs, memory)
        said = tuple(output.action)
        return (*said, output.action.mode(), output.value, *_filled(memory))


def export_onnx(policy: RecurrentPolicy, file: Path, said: dict[str, Any]) -> None:
    """Write ``file``; the number of streams is left open.

    Args:
        policy: On the CPU.
        file: Replaced if it exists.
        said: Goes into the file's metadata as JSON, beside the policy's description.

    Raises:
        ConfigError: If the packages that this needs are not there.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--onnx needs {', '.join(missing)}; `pip install 'fwrl[onnx]'` brings it"
        )
    example = _example(policy)
    leaves = tuple(_filled(example))
    names = [*_names(example[0]._asdict()), *_numbered("memory", example[1])]
    with torch.no_grad():
        said_of_actions = policy.step(*example)[0].action._fields
    outputs = [*said_of_actions, "action", "value", *_numbered("next_memory", example[1])]
    batch = torch.export.Dim("batch")
    # kernels of our own mean nothing to others
    with use_kernel("chunked"), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Step(policy.eval(), example),
            leaves,
            dynamo=True,
            verbose=False,
            input_names=names,
            output_names=outputs,
            dynamic_shapes=[tuple({0: batch} for _ in leaves)],
        )
    assert program is not None, "an exporter of this kind returns what it has made"
    document = {"policy": describe_policy(policy), **said}
    program.model.metadata_props["fwrl"] = json.dumps(document)
    program.save(str(file))


def _example(policy: RecurrentPolicy) -> tuple[PolicyInput, Any]:
    seen = batch_space(policy.observation_space, ROWS).sample()
    inputs = PolicyInput(
        to_tensors(seen, policy.device),
        policy.initial_action(ROWS),
        torch.zeros(ROWS),
        torch.zeros(ROWS, dtype=torch.int64),
    )
    return inputs, policy.initial_state(ROWS)


def _filled(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tensors_in(tree) if leaf[0].numel()]


def _names(tree: Any, place: str = "") -> Iterator[str]:
    """A name for each leaf: the way to it."""
    if isinstance(tree, Tensor):
        yield place
        return
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, part in items:
        yield from _names(part, f"{place}.{key}" if place else str(key))


def _numbered(name: str, memory: Any) -> list[str]:
    return [f"{name}.{number}" for number, _ in enumerate(_filled(memory))]
