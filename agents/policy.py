"""The recurrent policy: encoder, memory, and two heads."""

import math
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from agents.actions import Distribution, DivergedError, Gaussian, make_head
from agents.encoders import (
    LARGEST,
    LARGEST_BARE,
    EncoderConfig,
    bounded,
    make_encoder,
    sines,
    update_moments,
)
from agents.normalisers import RunningMoments
from agents.spaces import ACTION_MASK, split_mask
from fwrl.config import Config
from fwrl.cores import CoreConfig
from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.stack import ResidualStack, StackConfig
from fwrl.state import map_tensors, take_rows, where_state


def named_leaves(tree: Any, name: str) -> dict[str, Tensor]:
    """The leaves of an observation by their paths."""
    if isinstance(tree, Tensor):
        return {name: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {
        path: leaf
        for key, part in items
        for path, leaf in named_leaves(part, f"{name}.{key}").items()
    }


def _largest(leaf: Tensor) -> float:
    return float(leaf.detach().double().abs().max()) if leaf.numel() else 0.0


class RewardConfig(Config):
    """Scaling and clipping of rewards for learning; statistics and evaluation use raw rewards."""

    scale: float = Field(default=1.0, gt=0)
    """Factor on rewards."""
    clip: float | None = Field(default=None, gt=0)
    """Rewards are clipped to [-clip, clip] after scaling; 1 is usual for Atari."""
    normalise: bool = False
    """Divide by the running standard deviation of the discounted return, kept in the policy."""


class PolicyConfig(Config):
    """The architecture of a policy, but for its two spaces."""

    encoder: EncoderConfig = EncoderConfig()
    """The encoder of observations."""
    core: CoreConfig = FastWeightConfig()
    """The memory in each layer of the stack."""
    stack: StackConfig = StackConfig()
    """The layers around the memory."""
    reward: RewardConfig = RewardConfig()
    """Scaling and clipping of rewards for learning, and for the encoder."""


class PolicyInput(NamedTuple):
    """The policy's input at one time step (leading axes ``[N]``) or at T of them (``[N, T]``)."""

    observation: Any
    previous_action: Shaped[Tensor, "*B A"]
    previous_reward: Float[Tensor, "*B"]
    elapsed: Int[Tensor, "*B"]
    """Steps since the episode began. 0 opens it; previous action and reward are then ignored."""

    @property
    def starts(self) -> Bool[Tensor, "*B"]:
        """Which observations open an episode."""
        return self.elapsed == 0


class PolicyOutput(NamedTuple):
    """A distribution over actions, and the critic's estimate of the return to come."""

    action: Distribution
    value: Float[Tensor, "*B"]


class RecurrentPolicy(nn.Module):
    """Maps a history of observations to a distribution over actions and a value.

    The state is that of the memory. Rows that open an episode are reset inside, so that no caller
    can forget to.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        config: PolicyConfig,
    ) -> None:
        super().__init__()
        self.config = config
        self.observation_space, self.action_space = observation_space, action_space
        seen, mask = split_mask(observation_space)
        self.masked = mask is not None
        self.encoder = make_encoder(seen, config.encoder)
        self.stack = ResidualStack(config.stack, config.core)
        self.head = make_head(action_space, self.stack.output_size, mask)
        self.value = nn.Linear(self.stack.output_size, 1)
        nn.init.orthogonal_(self.value.weight, 1.0)
        nn.init.zeros_(self.value.bias)
        features = cast(int, self.encoder.output_size)
        features += self.head.feature_size * config.encoder.previous_action
        features += config.encoder.previous_reward + 2 * config.encoder.time_frequencies
        # a bare memory reads the features themselves where it can
        fits = config.stack.bare and features == config.stack.width
        self.project = nn.Identity() if fits else nn.Linear(features, config.stack.width)
        self.return_moments = RunningMoments(1) if config.reward.normalise else None

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.value.weight.device

    def initial_state(self, batch_size: int) -> Any:
        """The memory state of new streams."""
        return self.stack.initial_state(batch_size, self.device)

    def initial_action(self, batch_size: int) -> Shaped[Tensor, "N A"]:
        """The previous action of new streams: zeros."""
        dtype = torch.float32 if isinstance(self.action_space, spaces.Box) else torch.int64
        return torch.zeros(batch_size, self.head.action_size, dtype=dtype, device=self.device)

    def step(
        self, inputs: PolicyInput, state: Any, exact: bool = False
    ) -> tuple[PolicyOutput, Any]:
        """Read one observation per stream; rows that open an episode are reset first.

        Args:
            inputs: One per stream.
            state: The memory before them.
            exact: Compute each stream by itself: matrix products round differently for other
                numbers of rows. An exact ``unroll`` then gives the same numbers to the last bit,
                if all scans run on the reference kernel.
        """
        starts = inputs.starts
        if exact and starts.shape[0] > 1:
            return self._step_by_rows(inputs, state)
        # on a GPU the question whether any row starts would wait for all queued work, and an
        # exported program has to serve both cases
        if starts.is_cuda or torch.compiler.is_exporting() or bool(starts.any()):
            # one new stream is broadcast to all
            state = where_state(starts, self.initial_state(1), state)
        y, state = self.stack.step(self.encode(inputs), state)
        return self._heads(y, inputs), state

    def unroll(
        self, inputs: PolicyInput, state: Any, exact: bool = False
    ) -> tuple[PolicyOutput, Any]:
        """Read T observations per stream; equal to T steps, ``exact`` to as many exact ones."""
        if exact:
            return self._unroll_by_steps(inputs, state)
        y, state = self.stack.unroll(self.encode(inputs), state, inputs.starts)
        return self._heads(y, inputs), state

    def _step_by_rows(self, inputs: PolicyInput, state: Any) -> tuple[PolicyOutput, Any]:
        rows = torch.arange(inputs.starts.shape[0], device=self.device).split(1)
        outputs = [self.step(take_rows(inputs, row), take_rows(state, row)) for row in rows]
        return map_tensors(lambda *leaves: torch.cat(leaves), *outputs)

    def _unroll_by_steps(self, inputs: PolicyInput, state: Any) -> tuple[PolicyOutput, Any]:
        outputs: list[PolicyOutput] = []
        for t in range(inputs.starts.shape[1]):
            now = map_tensors(partial(torch.select, dim=1, index=t), inputs)
            output, state = self.step(now, state, exact=True)
            outputs.append(output)
        return map_tensors(lambda *leaves: torch.stack(leaves, dim=1), *outputs), state

    def encode(self, inputs: PolicyInput) -> Float[Tensor, "*B D"]:
        """The memory's input: features of observation, previous action and reward, and time."""
        config = self.config.encoder
        device_type = inputs.elapsed.device.type
        with torch.autocast(device_type, torch.bfloat16, enabled=config.bfloat16):
            features = [self.encoder(inputs.observation).float()]
        opens = inputs.starts.unsqueeze(-1)
        if config.previous_action:
            features.append(self.head.features(inputs.previous_action).masked_fill(opens, 0.0))
        if config.previous_reward:
            features.append(inputs.previous_reward.unsqueeze(-1).masked_fill(opens, 0.0))
        if config.time_frequencies:
            features.append(sines(inputs.elapsed, config.time_frequencies))
        together = torch.cat(features, dim=-1)
        if self.config.stack.bare:
            together = bounded(together, LARGEST_BARE)
        return self.project(together)

    def _heads(self, y: Float[Tensor, "*B E"], inputs: PolicyInput) -> PolicyOutput:
        mask = inputs.observation[ACTION_MASK] if self.masked else None
        return PolicyOutput(self.head(y, mask), self.value(y).squeeze(-1))

    def to_environment(
        self, action: Shaped[Tensor, "N A"], output: PolicyOutput, inputs: PolicyInput
    ) -> NDArray[Any]:
        """An action in the form that the environment expects: finite and inside its space.

        Args:
            action: Chosen from the output.
            output: The output of a step.
            inputs: The inputs of that step, of which an error names the cause.

        Raises:
            DivergedError: If the output is not finite.
        """
        chosen = action if isinstance(output.action, Gaussian) else output.action.log_probs
        # one number, as each that leaves the device takes time
        if not math.isfinite((output.value.sum() + chosen.sum()).detach().item()):
            raise DivergedError(f"the policy's output is not finite: {self._cause(inputs)}")
        return self.head.to_environment(action)

    def _cause(self, inputs: PolicyInput) -> str:
        """The first part of the policy that is not finite, or else the largest of its inputs."""
        for name, leaf in self.state_dict().items():
            if leaf.is_floating_point() and not bool(leaf.isfinite().all()):
                return f"its {name} is not"
        parts = named_leaves(inputs.observation, "observation")
        sizes = {name: _largest(leaf) for name, leaf in parts.items()}
        sizes["previous reward"] = _largest(inputs.previous_reward)
        name = max(sizes, key=lambda each: (not math.isfinite(sizes[each]), sizes[each]))
        return f"its parameters are; {name} reaches {sizes[name]:.3g}"

    def learned_reward(self, reward: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """The reward in the learner's units; also what the encoder sees as the previous reward."""
        reward = reward * self.config.reward.scale
        clip = self.config.reward.clip
        return bounded(reward, LARGEST if clip is None else clip)

    def update_normalisers(self, observation: Any, returns: Float[Tensor, "N T"]) -> None:
        """Update the normalisers between two rollouts, so that a rollout and its replay agree."""
        if self.return_moments is not None:
            self.return_moments.update(returns.unsqueeze(-1))
        update_moments(self.encoder, observation)
