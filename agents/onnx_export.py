"""Export of a policy to ONNX: one step, with the memory as explicit inputs and outputs.

Running the file needs neither PyTorch nor this library. The outputs ``next_memory.*`` of a step are
the inputs ``memory.*`` of the next one; where ``elapsed`` is 0 the memory is reset inside.
"""

import copy
import logging
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from gymnasium.vector.utils import batch_space
from torch import Tensor, nn
from typing_extensions import override

from agents.policy import PolicyInput, PolicyMemory, RecurrentPolicy
from agents.rollout import to_tensors
from agents.saving import DOCUMENT, actor_of, policy_document
from fwrl.config import ConfigError
from fwrl.cores import name_of
from fwrl.files.plain_files import replace_plain
from fwrl.kernels import use_kernel
from fwrl.state import map_tensors, tensors_in

ENDING = ".onnx"
# The output with the action in the environment's own form.
GIVEN = "environment_action"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# Bytes: the most that a protocol buffer holds, and the part that is kept free of parameters.
LARGEST = 2**31 - 1
BESIDE_PARAMETERS = 2**24
# Rows of the example that is traced; a single row would be taken for a constant.
ROWS = 2
# Allowed difference between programs that add the same numbers in different orders.
TOLERANCE = 1e-3


class Example(NamedTuple):
    """The arguments of a step."""

    inputs: PolicyInput
    memory: PolicyMemory


def export_onnx(path: Path, policy: RecurrentPolicy, document: Mapping[str, Any]) -> None:
    """Write one step of a policy as one ONNX file, whole or not at all.

    The policy is on the CPU, in ``eval`` mode. The number of streams is left open; ``document`` is
    stored with it as JSON. The result is run once and compared with PyTorch. Everything is computed
    in float32, also for a policy that was trained in bfloat16: ONNX Runtime has no such products
    for CPUs. A critic that reads more than the actor is left out, and with it the output ``value``.

    Raises:
        ConfigError: If packages are missing, or the policy cannot be exported.
    """
    policy = actor_of(policy)
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"ONNX files need {', '.join(missing)}; `pip install 'fwrl[onnx]'` brings it"
        )
    size = sum(leaf.nbytes for leaf in (*policy.parameters(), *policy.buffers()))
    if size > LARGEST - BESIDE_PARAMETERS:
        raise ConfigError(
            f"{path}: the policy has {size:,} bytes, and an ONNX file at most {LARGEST:,}; "
            "write it as safetensors"
        )
    example = _example(policy, ROWS)
    step = _Step(_in_float32(policy), example)
    step.training = policy.training
    names = step.input_names()
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise _refusal(policy, f"its observations have {twice[0]} twice")
    # ONNX has no equivalent of our own kernels
    with use_kernel("chunked"), torch.no_grad():
        model = _translate(step, example)
        model.metadata_props.add(key=DOCUMENT, value=policy_document(policy, document))
        data = cast(bytes, model.SerializeToString())
        # with another number of streams than was traced
        _check(data, step, _example(policy, ROWS + 1))
    replace_plain(path, data)


def _in_float32(policy: RecurrentPolicy) -> RecurrentPolicy:
    """A policy of the same parameters."""
    same, config = copy.copy(policy), policy.config
    encoder = config.encoder.model_copy(update={"bfloat16": False})
    same.config = config.model_copy(update={"precision": "float32", "encoder": encoder})
    return same


class _Step(nn.Module):
    """A policy's step as a function of tensors: the leaves of its arguments that hold numbers."""

    def __init__(self, policy: RecurrentPolicy, example: Example) -> None:
        super().__init__()
        self.policy = policy
        # shapes alone: the tracer would take the batch size from any tensor that it sees
        self.shapes = map_tensors(partial(torch.Tensor.to, device="meta"), example)

    @override
    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        given = iter(leaves)
        batch = leaves[0].shape[0]

        def take(leaf: Tensor) -> Tensor:
            if _holds(leaf):
                return next(given)
            return torch.zeros(batch, *leaf.shape[1:], dtype=leaf.dtype)

        inputs, memory = map_tensors(take, self.shapes)
        reward = self.policy.reward_feature(inputs.previous_reward)
        output, memory = self.policy.step(inputs._replace(previous_reward=reward), memory)
        # two outputs must not be the same tensor
        action = output.action.mode().clone()
        acted = self.policy.head.environment_action(action)
        value = () if self.policy.config.without_critic else (output.value,)
        return (*output.action, action, *value, acted, *filter(_holds, tensors_in(memory)))

    def input_names(self) -> list[str]:
        """The names of the leaves, in order."""
        inputs, memory = self.shapes
        return [*_names(inputs), *_memory_names(memory, "memory")]

    def output_names(self) -> list[str]:
        """The names of a step's outputs, in order."""
        memory = _memory_names(self.shapes[1], "next_memory")
        value = [] if self.policy.config.without_critic else ["value"]
        return [*self.policy.head.kind._fields, "action", *value, GIVEN, *memory]


def _translate(step: _Step, example: Example) -> Any:
    """The program as a protocol buffer, without metadata about this machine."""
    leaves = tuple(filter(_holds, tensors_in(example)))
    batch = torch.export.Dim("batch")
    try:
        with _silence():
            program = torch.onnx.export(
                step,
                leaves,
                dynamo=True,
                verbose=False,
                input_names=step.input_names(),
                output_names=step.output_names(),
                dynamic_shapes=[tuple({0: batch} for _ in leaves)],
            )
    except torch.onnx.OnnxExporterError as error:
        raise _refusal(step.policy, _cause(error)) from None
    assert program is not None, "the exporter returns its program with dynamo=True"
    model: Any = program.model_proto
    graph = model.graph
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")
    graph.ClearField("value_info")
    return model


def _check(data: bytes, step: _Step, example: Example) -> None:
    """Raise ConfigError unless the file runs and computes what PyTorch does."""
    library: Any = import_module("onnxruntime")
    options = library.SessionOptions()
    # log errors only
    options.log_severity_level = 3
    try:
        session = library.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        different = _differing_outputs(session, step, example)
    # its errors have no common base class
    except Exception as error:
        raise _refusal(step.policy, str(error)) from None
    if different:
        raise _refusal(
            step.policy, f"{', '.join(different)} would not be what PyTorch computes to {TOLERANCE}"
        )


def _differing_outputs(session: Any, step: _Step, example: Example) -> list[str]:
    """Names of outputs that differ from PyTorch's in two steps, one continuing the other."""
    names, outputs = step.input_names(), step.output_names()
    leaves = list(filter(_holds, tensors_in(example)))
    elapsed = names.index("elapsed")
    different: list[str] = []
    for _ in range(2):
        given = {name: leaf.numpy() for name, leaf in zip(names, leaves, strict=True)}
        found = [torch.as_tensor(array) for array in session.run(outputs, given)]
        expected = step(*leaves)
        for name, theirs, ours in zip(outputs, found, expected, strict=True):
            # either of two equally good actions may be chosen
            if name not in ("action", GIVEN) and not _agree(theirs, ours):
                different.append(name)
        memory = expected[outputs.index(GIVEN) + 1 :]
        leaves = [*leaves[:elapsed], leaves[elapsed] + 1, *memory]
    return different


def _agree(theirs: Tensor, ours: Tensor) -> bool:
    same = theirs.shape == ours.shape and theirs.dtype == ours.dtype
    return same and torch.allclose(theirs, ours, TOLERANCE, TOLERANCE, equal_nan=True)


def _example(policy: RecurrentPolicy, rows: int) -> Example:
    """Arguments for a step: the first stream opens an episode, the others are within one."""
    space = batch_space(policy.observation_space, rows)
    space.seed(0)
    inputs = PolicyInput(
        to_tensors(space.sample(), policy.device),
        policy.initial_action(rows),
        torch.linspace(-1.0, 1.0, rows),
        torch.arange(rows),
    )
    return Example(inputs, policy.initial_state(rows))


def _holds(leaf: Tensor) -> bool:
    """Whether a tensor is not empty, as ONNX Runtime refuses empty ones."""
    return leaf.shape[1:].numel() > 0


def _memory_names(memory: PolicyMemory, place: str) -> Iterator[str]:
    """The names of a policy's state: the layers have numbers, and the rest its own name."""
    yield from _names(memory.layers, place)
    yield from _names(memory.frames, f"{place}.frames")
    if memory.critic is not None:
        yield from _memory_names(memory.critic, f"{place}.critic")


def _names(tree: Any, place: str = "") -> Iterator[str]:
    """The path to each leaf that holds numbers, as its name."""
    if tree is None:
        return
    if isinstance(tree, Tensor):
        if _holds(tree):
            yield place
        return
    fields = tree._asdict() if hasattr(tree, "_asdict") else tree
    items = fields.items() if isinstance(fields, Mapping) else enumerate(fields)
    for key, part in items:
        yield from _names(part, f"{place}.{key}" if place else str(key))


def _refusal(policy: RecurrentPolicy, reason: str) -> ConfigError:
    kinds = name_of(policy.config.core)
    return ConfigError(f"this policy (core.kind={kinds}) cannot be written as ONNX: {reason}")


def _cause(error: BaseException) -> str:
    """The original error, which the exporter wraps into pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0] or type(error).__name__


@contextmanager
def _silence() -> Generator[None]:
    """Silence the exporter's warnings and log."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
