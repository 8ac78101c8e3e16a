"""Trunks: the way from observations and their history to the numbers that heads read."""

from functools import partial
from typing import Any, NamedTuple, cast

import torch
from gymnasium import spaces
from jaxtyping import Bool, Float
from torch import Tensor, nn

from agents.encoders import EncoderConfig, dense_layers, make_encoder
from agents.frames import blank_frames, stack_frames
from agents.normalisers import LARGEST_BARE, bounded
from agents.policy_data import PolicyInput, PolicyMemory
from agents.spaces import arranged
from fwrl.cores import CoresConfig
from fwrl.stack import Advance, ResidualStack, StackConfig
from fwrl.state import at_least_float32, map_tensors, without_autocast

# The fields that have parameters.
MODULES = ("encoder", "stack", "dense", "project")


class Trunk(NamedTuple):
    """Encoder, dense layers, a linear map and the stack; their owner registers these modules."""

    encoder: nn.Module
    stack: ResidualStack
    dense: nn.Module
    project: nn.Module
    seen: spaces.Space[Any]
    """The space of the observations that are encoded."""
    blank: Any
    """The frames of one stream that has not begun; None without a frame stack."""
    selects: bool = False
    """Whether observations have keys that must not be read here."""

    def modules(self) -> nn.ModuleDict:
        """Its modules by name, to be registered."""
        return nn.ModuleDict({name: getattr(self, name) for name in MODULES})

    def initial_state(self, batch_size: int, device: torch.device) -> PolicyMemory:
        """The memory of new streams."""
        layers = self.stack.initial_state(batch_size, device)
        return PolicyMemory(layers, map_tensors(partial(_zeros, batch_size, device), self.blank))

    def step(
        self,
        inputs: PolicyInput,
        beside: list[Tensor],
        low: bool,
        state: PolicyMemory,
        heads: tuple[nn.Linear, ...],
        overwrite: bool,
    ) -> tuple[tuple[Tensor, ...], PolicyMemory]:
        """The numbers of the heads for one observation per stream, and the memory after it.

        Args:
            inputs: One per stream.
            beside: As in ``features``.
            low: As in ``features``.
            state: The memory before them, fresh in the rows that open an episode.
            heads: Linear maps of the output of the stack.
            overwrite: Whether the new memory may take the place of the given one.
        """
        features, frames = self.features(inputs, beside, low, state.frames)
        device = features.device
        if torch.is_autocast_enabled(device.type):
            y, layers = self.stack.step(self.projected(features), state.layers)
            with without_autocast(device):
                y = at_least_float32(y)
                return tuple(head(y) for head in heads), PolicyMemory(layers, frames)
        project = self.project if isinstance(self.project, nn.Linear) else None
        said, layers = self.stack.step_between(project, features, state.layers, heads, overwrite)
        return said, PolicyMemory(layers, frames)

    def through(
        self,
        inputs: PolicyInput,
        beside: list[Tensor],
        low: bool,
        state: PolicyMemory,
        advance: Advance,
    ) -> tuple[Float[Tensor, "N T E"], PolicyMemory]:
        """The output of the stack for T observations per stream, and the memory after them."""
        features, frames = self.features(inputs, beside, low, state.frames)
        y, layers = self.stack.through(self.projected(features), state.layers, advance)
        return y, PolicyMemory(layers, frames)

    def features(
        self, inputs: PolicyInput, beside: list[Tensor], low: bool, frames: Any
    ) -> tuple[Float[Tensor, "*B F"], Any]:
        """The features before they are brought to the width of the stack, and the next frames.

        Args:
            inputs: At one time step or at T of them.
            beside: Features that stand beside those of the encoder.
            low: Whether the encoder computes in bfloat16.
            frames: The observations before these; only a frame stack needs them.
        """
        seen, frames = self._seen(inputs.observation, inputs.starts, frames)
        device = inputs.elapsed.device
        bfloat16 = partial(torch.autocast, device.type, torch.bfloat16)
        with bfloat16() if low else without_autocast(device):
            encoded = self.encoder(seen).float()
        together = torch.cat([encoded, *beside], dim=-1)
        if self.stack.bare:
            together = bounded(together, LARGEST_BARE)
        return self.dense(together), frames

    def projected(self, features: Float[Tensor, "*B F"]) -> Float[Tensor, "*B D"]:
        """The input of the stack."""
        # the stream to which the layers add is a sum
        return at_least_float32(self.project(features))

    def _seen(self, observation: Any, starts: Bool[Tensor, "*B"], frames: Any) -> tuple[Any, Any]:
        """The observations for the encoder, stacked if they are to be, and the next frames."""
        if self.blank is None:
            return (arranged(observation, self.seen) if self.selects else observation), None
        observation = arranged(observation, self.seen)
        if starts.dim() == 2:
            return stack_frames(frames, observation, starts)
        now = map_tensors(partial(torch.unsqueeze, dim=1), observation)
        stacked, frames = stack_frames(frames, now, starts.unsqueeze(1))
        return map_tensors(partial(torch.squeeze, dim=1), stacked), frames


def make_trunk(
    seen: spaces.Space[Any],
    beside: int,
    encoder: EncoderConfig,
    stack: StackConfig,
    core: CoresConfig,
) -> Trunk:
    """A trunk with new parameters, which reads ``beside`` features beside the encoder's."""
    return assembled(make_encoder(seen, encoder), ResidualStack(stack, core), seen, beside, encoder)


def assembled(
    encoder: nn.Module,
    stack: ResidualStack,
    seen: spaces.Space[Any],
    beside: int,
    config: EncoderConfig,
) -> Trunk:
    """A trunk of this encoder and this stack, and of new layers between them."""
    features = cast(int, encoder.output_size) + beside
    dense = dense_layers(features, config.hidden)
    features = (features, *config.hidden)[-1]
    # a bare memory reads the features themselves where it can
    fits = stack.bare and features == stack.input_size
    project = nn.Identity() if fits else nn.Linear(features, stack.input_size)
    blank = blank_frames(seen, config.frame_stack - 1)
    return Trunk(encoder, stack, dense, project, seen, blank)


def _zeros(batch_size: int, device: torch.device, leaf: Tensor) -> Tensor:
    return torch.zeros(batch_size, *leaf.shape[1:], dtype=leaf.dtype, device=device)
