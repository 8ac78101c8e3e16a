"""Episodes of a policy, and the writes and reads of its memory at each time step."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from agents.distributions import Distribution
from agents.evaluation import EvaluationError
from agents.policy import PolicyInput, PolicyMemory, RecurrentPolicy
from agents.rollout import VectorEnv, following_inputs, start
from agents.spaces import ACTION_MASK
from fwrl.core import MemoryCore, Reads
from fwrl.inspection.measures import memory_measures
from fwrl.inspection.reads import is_linear, join, reads_of, remark
from fwrl.inspection.recall_map import RecallMap, influence, recall_map
from fwrl.state import at_least_float32, map_tensors, take_rows, tensors_in

# Steps of an episode above which gradients are only computed if there is nothing else to show.
LONG = 256


@runtime_checkable
class RenderedEnv(VectorEnv, Protocol):
    """Environments that can draw slot 0."""

    def render(self) -> NDArray[np.uint8] | None:
        """The picture of the present; None if there is none."""
        ...


class Played(NamedTuple):
    """One episode of one stream, or its first steps: observations, outputs and actions."""

    inputs: PolicyInput
    distribution: Distribution
    action: Shaped[Tensor, "1 T A"]
    value: Float[Tensor, "1 T"]
    # the Euclidean norm of the state of each layer
    state_norm: Float[Tensor, "1 T L"]
    reward: list[float]
    # the picture before each action; empty where the environment draws none
    frames: list[NDArray[np.uint8]]
    # whether it ended within the steps that were wanted, and whether the task was solved, if known
    ended: bool
    success: bool | None


class Looked(NamedTuple):
    """The inspection of one memory over an episode; no map where its rule is not linear."""

    name: str
    recall: RecallMap | None
    measures: dict[str, Float[Tensor, "1 T H"]]


class Layer(NamedTuple):
    """The memories of one layer, and a remark on their maps."""

    remark: str
    memories: list[Looked]

    @property
    def exact(self) -> bool:
        """Whether all its memories have recall maps, if it has any."""
        return all(each.recall is not None for each in self.memories) and bool(self.memories)


def remarks_on(remarks: Mapping[int, str], layers: int) -> str:
    """Remarks on some of so many layers, by number from 1; one on all layers has no number."""
    numbers: dict[str, list[int]] = {}
    for number, text in remarks.items():
        numbers.setdefault(text, []).append(number)
    return "; ".join(
        text if len(where) == layers else f"layer {', '.join(map(str, where))}: {text}"
        for text, where in numbers.items()
    )


def play_episodes(
    policy: RecurrentPolicy,
    envs: RenderedEnv,
    seed: int,
    max_steps: int,
    deterministic: bool = True,
) -> Iterator[Played]:
    """Episode after episode of the first slot, each for at most ``max_steps`` steps.

    An episode that was cut is the last one.

    Raises:
        EvaluationError: If the environment fails, as nothing of its episode can then be explained.
    """
    inputs, memory, *_ = start(envs, policy, seed)
    ended = True
    while ended:
        played, inputs, memory = _play(policy, envs, inputs, memory, max_steps, deterministic)
        ended = played.ended
        yield played


@torch.no_grad()
def _play(
    policy: RecurrentPolicy,
    envs: RenderedEnv,
    inputs: PolicyInput,
    memory: Any,
    max_steps: int,
    deterministic: bool,
) -> tuple[Played, PolicyInput, Any]:
    """One episode, and the inputs and memory with which the next one begins."""
    columns: list[tuple[Any, ...]] = []
    frames: list[NDArray[np.uint8]] = []
    rewards: list[float] = []
    ended, success = False, None
    while not ended and len(columns) < max_steps:
        frame = envs.render()
        frames += [] if frame is None else [frame]
        output, memory = policy.step(inputs, memory)
        action = output.action.mode() if deterministic else output.action.sample()
        step = envs.step(policy.to_environment(action, output, inputs))
        if 0 in step.faults:
            raise EvaluationError(f"the environment failed in this episode: {step.faults[0]}")
        # other slots are those of other agents
        shown = take_rows((inputs, output.action, action, output.value), slice(1))
        columns.append((*shown, _norms(take_rows(memory.layers, slice(1)))))
        rewards.append(float(step.reward[0]))
        inputs = following_inputs(policy, inputs, action, step)
        ended = bool(inputs.starts[0])
        if ended and step.success is not None:
            success = bool(step.success[0])
    seen, said, taken, value, norm = map_tensors(lambda *steps: torch.stack(steps, dim=1), *columns)
    played = Played(seen, said, taken, value, norm, rewards, frames, ended, success)
    return played, inputs, memory


def _norms(layers: tuple[Any, ...]) -> Float[Tensor, "1 L"]:
    """The norms of the states of the layers; 0 where there is no state."""
    squares = [sum(leaf.square().sum() for leaf in tensors_in(state)) for state in layers]
    return torch.tensor([[float(square) ** 0.5 for square in squares]])


def look_into(policy: RecurrentPolicy, inputs: PolicyInput) -> list[Layer]:
    """Recall maps and measures of the memories of each layer over an episode.

    Args:
        policy: The policy that played it.
        inputs: The policy's inputs from the start of the episode on, ``[1, T]``.
    """
    cores, _ = watch(policy, inputs, policy.initial_state(1))
    return [Layer(remark(core, reads), [_look_at(read) for read in reads]) for core, reads in cores]


class Watched(NamedTuple):
    """A core, and the writes and queries of its memories."""

    core: MemoryCore[Any]
    reads: list[Reads]


@torch.no_grad()
def watch(
    policy: RecurrentPolicy, inputs: PolicyInput, state: PolicyMemory
) -> tuple[list[Watched], PolicyMemory]:
    """The cores of all layers, watched while the policy reads inputs, and its state after them.

    The policy computes exactly what it computes unwatched.

    Args:
        policy: The policy whose memory is watched.
        inputs: Time steps in a row, ``[B, T]``.
        state: The state before the first of them.
    """
    watched: list[Watched] = []

    def advance(core: MemoryCore[Any], x: Tensor, before: Any) -> tuple[Tensor, Any]:
        watched.append(Watched(core, reads_of(core, x, before, inputs.starts)))
        return core.unroll(x, before, inputs.starts)

    _, after = policy.trunk(inputs, state, advance)
    return watched, after


def _look_at(read: Reads) -> Looked:
    recall = recall_map(read) if is_linear(read) else None
    after_last = slice(read.writes - 1, None, read.writes)
    measures = memory_measures(read)
    return Looked(read.name, recall, {k: m[:, after_last] for k, m in measures.items()})


def influence_on_actions(policy: RecurrentPolicy, played: Played) -> Float[Tensor, "T S"]:
    """How much the log-probability of each chosen action changes with each input of the memory.

    Shares of the lengths of gradients through the whole policy, for any memory.
    """
    inputs = played.inputs
    with torch.no_grad(), policy.autocast():
        x = policy.encode(inputs, policy.initial_state(1))

    def outcome(copies: Float[Tensor, "R T D"]) -> Float[Tensor, "R T"]:
        rows, times = copies.shape[:2]
        repeat = partial(_copies, rows=rows, times=times)
        with policy.autocast():
            layers = policy.initial_state(rows).layers
            y, _ = policy.stack.unroll(copies, layers, repeat(inputs.starts))
        mask = repeat(inputs.observation[ACTION_MASK]) if policy.masked else None
        return policy.head(at_least_float32(y), mask).log_prob(repeat(played.action))

    return influence(outcome, x)


def _copies(leaf: Shaped[Tensor, "1 T *any"], rows: int, times: int) -> Shaped[Tensor, "R t *any"]:
    return leaf[:, :times].expand(rows, *leaf[:, :times].shape[1:])


class Rows(NamedTuple):
    """The shares of past steps in the reads of all heads of one memory, at T time steps."""

    name: str
    # shares of the last S steps, the newest last; 0 before the episode
    share: Float[Tensor, "T S"]
    # the share of all steps before these, and of the initial weights
    older: Float[Tensor, " T"]


class Followed(NamedTuple):
    """The last piece of an episode that was followed, and the policy's state after it."""

    times: int
    layers: Sequence[Watched]
    state: PolicyMemory

    @property
    def exact(self) -> bool:
        """Whether there are memories with recall maps."""
        return bool(mapped(self.layers))

    @property
    def remark(self) -> str:
        """The meaning of the rows, or the reason why there are none."""
        remarks = {number: remark(*layer) for number, layer in enumerate(self.layers, 1)}
        return remarks_on(remarks, len(self.layers))


def follow(policy: RecurrentPolicy, inputs: PolicyInput, before: Followed | None) -> Followed:
    """Read the next piece of an episode.

    Args:
        policy: The policy that played it.
        inputs: ``[1, T]``; the first piece begins where the episode starts.
        before: The piece before this one; None for the first.
    """
    state = policy.initial_state(1) if before is None else before.state
    layers, state = watch(policy, inputs, state)
    return Followed(inputs.elapsed.shape[1], layers, state)


@torch.no_grad()
def recall_rows(now: Followed, before: Followed | None, window: int) -> list[Rows]:
    """The rows of a piece of an episode, for each memory with a recall map, in order.

    Args:
        now: The piece.
        before: The piece before it, of at least S steps; None if it is the first.
        window: Steps of a row, S.
    """
    pieces = [now] if before is None else [before, now]
    found: list[Rows] = []
    for memory in zip(*(mapped(piece.layers) for piece in pieces), strict=True):
        name = memory[0][0]
        recall = recall_map(join([read for _, read in memory]))
        share = recall.share[0, -now.times :, -1]
        newest = torch.arange(share.shape[1] - now.times, share.shape[1], device=share.device)
        columns = newest.unsqueeze(1) + torch.arange(window, device=share.device)
        shown = F.pad(share, (window - 1, 0)).gather(1, columns)
        older = share.sum(dim=1) - shown.sum(dim=1) + recall.before[0, -now.times :, -1]
        found.append(Rows(name, shown.cpu(), older.cpu()))
    return found


def mapped(layers: Sequence[Watched]) -> list[tuple[str, Reads]]:
    """The memories with recall maps, by name; the layer is left out where there is only one."""
    return [
        (f"layer {number}, {read.name}" if len(layers) > 1 else read.name, read)
        for number, (_, reads) in enumerate(layers, 1)
        for read in reads
        if is_linear(read)
    ]
