"""The recurrent policy: encoder, memory, and two heads."""

import math
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal, cast

import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Shaped
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from agents.actions import ActionConfig, DivergedError, make_head
from agents.critic import CRITICS, Critic, CriticConfig, actor_space
from agents.distributions import Beta, Categorical
from agents.divergence import cause
from agents.encoders import EncoderConfig, make_encoder, sines, update_moments
from agents.normalisers import LARGEST, RunningMoments, bounded
from agents.policy_data import PolicyInput, PolicyMemory, PolicyOutput
from agents.spaces import ACTION_MASK, split_mask
from agents.trunk import Trunk, assembled, make_trunk
from fwrl.config import Config
from fwrl.core import MemoryCore
from fwrl.cores import CoresConfig
from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.cores.none import NoMemoryConfig
from fwrl.stack import Advance, FittedStack, ResidualStack, StackConfig
from fwrl.state import (
    at_least_float32,
    map_tensors,
    may_look,
    take_rows,
    where_state,
    without_autocast,
)


def _unless(
    opens: Bool[Tensor, "*B"] | None, features: Float[Tensor, "*B F"]
) -> Float[Tensor, "*B F"]:
    """The features of what was before, zero where an episode opens."""
    return features if opens is None else features.masked_fill(opens.unsqueeze(-1), 0.0)


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
    core: CoresConfig = FastWeightConfig()
    """The memory in every layer of the stack, or a list of one for each."""
    stack: FittedStack = Field(default=StackConfig(), validate_default=True)
    """The layers around the memory."""
    action: ActionConfig = ActionConfig()
    """How actions in a Box are drawn."""
    reward: RewardConfig = RewardConfig()
    """Scaling and clipping of rewards for learning, and for the encoder."""
    critic: CriticConfig = CriticConfig(head="linear")
    """How values are learned; a run says ``popart`` unless its configuration says otherwise."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """The precision of the matrix products in encoder and memory."""
    without_critic: bool = False
    """Whether it only acts, as one does that is exported without what its critic reads."""


class RecurrentPolicy(nn.Module):
    """Maps a history of observations to a distribution over actions and a value.

    The state is a ``PolicyMemory``. Rows that open an episode are reset inside, so that no caller
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
        # the critic's own keys went with it
        shown = seen if config.without_critic else actor_space(seen, config.critic)
        self.encoder = make_encoder(shown, config.encoder)
        self.stack = ResidualStack(config.stack, config.core)
        self.head = make_head(action_space, self.stack.output_size, mask, config.action)
        beside = self.head.feature_size * config.encoder.previous_action
        beside += config.encoder.previous_reward + 2 * config.encoder.time_frequencies
        self._critic: Trunk | None = None
        if not config.without_critic:
            self._add_critic(seen, beside)
        actor = assembled(self.encoder, self.stack, shown, beside, config.encoder)
        self.dense, self.project = actor.dense, actor.project
        self._actor = actor._replace(selects=bool(config.critic.observation))
        said = config.encoder.normalise_reward
        self.divides = config.critic.head != "linear" if said is None else said
        keeps = config.reward.normalise or (self.divides and config.encoder.previous_reward)
        self.return_moments = RunningMoments(1) if keeps else None

    def _add_critic(self, seen: spaces.Space[Any], beside: int) -> None:
        """Register the critic's head, and its trunk if it has one of its own."""
        config, size = self.config, self.stack.output_size
        if config.critic.memory != "shared":
            core = NoMemoryConfig() if config.critic.memory == "none" else config.core
            self._critic = make_trunk(seen, beside, config.encoder, config.stack, core)
            self.critic_trunk, size = self._critic.modules(), self._critic.stack.output_size
        self.critic: Critic = CRITICS[config.critic.head]()
        self.value = nn.Linear(size, self.critic.size)
        # classes begin equally probable
        nn.init.orthogonal_(self.value.weight, 1.0 if self.critic.size == 1 else 0.0)
        nn.init.zeros_(self.value.bias)

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.head.linear.weight.device

    def initial_state(self, batch_size: int) -> PolicyMemory:
        """The memory state of new streams."""
        state = self._actor.initial_state(batch_size, self.device)
        if self._critic is None:
            return state
        return state._replace(critic=self._critic.initial_state(batch_size, self.device))

    def initial_action(self, batch_size: int) -> Shaped[Tensor, "N A"]:
        """The previous action of new streams: zeros."""
        dtype = torch.float32 if isinstance(self.action_space, spaces.Box) else torch.int64
        return torch.zeros(batch_size, self.head.action_size, dtype=dtype, device=self.device)

    def step(
        self,
        inputs: PolicyInput,
        state: PolicyMemory,
        exact: bool = False,
        overwrite: bool = False,
    ) -> tuple[PolicyOutput, PolicyMemory]:
        """Read one observation per stream; rows that open an episode are reset first.

        Args:
            inputs: One per stream.
            state: The memory before them.
            exact: Compute each stream by itself: matrix products round differently for other
                numbers of rows. An exact ``unroll`` then gives the same numbers to the last bit,
                if all scans run on the reference kernel.
            overwrite: Whether the new memory may take the place of the given one, which nobody may
                read then: it stays in the processor's cache.
        """
        elapsed, opens = inputs.elapsed, None
        if exact and elapsed.shape[0] > 1:
            return self._step_by_rows(inputs, state)
        if not may_look(elapsed) or not bool(elapsed.all()):
            opens = inputs.starts
            # one new stream is broadcast to all
            state = where_state(opens, self.initial_state(1), state)
        with self.autocast():
            given = inputs, self._beside(inputs, opens), self._low
            alone = self.config.without_critic or self._critic is not None
            heads = (self.head.linear,) if alone else (self.head.linear, self.value)
            said, memory = self._actor.step(*given, state, heads, overwrite)
            if self._critic is not None:
                before = cast(PolicyMemory, state.critic)
                values, after = self._critic.step(*given, before, (self.value,), overwrite)
                said, memory = (*said, *values), memory._replace(critic=after)
        return self._output(inputs, *said), memory

    def unroll(
        self, inputs: PolicyInput, state: PolicyMemory, exact: bool = False
    ) -> tuple[PolicyOutput, PolicyMemory]:
        """Read T observations per stream; equal to T steps, ``exact`` to as many exact ones."""
        if exact:
            return self._unroll_by_steps(inputs, state)
        y, memory = self.trunk(inputs, state)
        if self._critic is None:
            return self.heads(y, inputs), memory
        of_critic, after = self._through(self._critic, inputs, cast(PolicyMemory, state.critic))
        return self.heads(y, inputs, of_critic), memory._replace(critic=after)

    def trunk(
        self, inputs: PolicyInput, state: PolicyMemory, advance: Advance | None = None
    ) -> tuple[Float[Tensor, "N T E"], PolicyMemory]:
        """The output of the actor's stack for T observations per stream, and its memory.

        Both heads read it, unless the critic has a trunk of its own, whose memory stays as it was.
        ``advance`` is called with the core of each layer, in place of its ``unroll``.
        """
        y, memory = self._through(self._actor, inputs, state, advance)
        return y, memory._replace(critic=state.critic)

    def _through(
        self,
        trunk: Trunk,
        inputs: PolicyInput,
        state: PolicyMemory,
        advance: Advance | None = None,
    ) -> tuple[Float[Tensor, "N T E"], PolicyMemory]:
        advance = advance or partial(_unroll, inputs.starts)
        with self.autocast():
            beside = self._beside(inputs, inputs.starts)
            return trunk.through(inputs, beside, self._low, state, advance)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which encoder and memory compute, which ``step`` and ``unroll`` enter.

        Under ``bfloat16`` their matrix products are; states, sums and heads stay float32. Inside
        one that stays entered, each weight is converted once only: enter it around steps between
        which no weight changes, and without gradients.
        """
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _step_by_rows(
        self, inputs: PolicyInput, state: PolicyMemory
    ) -> tuple[PolicyOutput, PolicyMemory]:
        rows = torch.arange(inputs.starts.shape[0], device=self.device).split(1)
        outputs = [self.step(take_rows(inputs, row), take_rows(state, row)) for row in rows]
        return map_tensors(lambda *leaves: torch.cat(leaves), *outputs)

    def _unroll_by_steps(
        self, inputs: PolicyInput, state: PolicyMemory
    ) -> tuple[PolicyOutput, PolicyMemory]:
        outputs: list[PolicyOutput] = []
        for t in range(inputs.starts.shape[1]):
            now = map_tensors(partial(torch.select, dim=1, index=t), inputs)
            output, state = self.step(now, state, exact=True)
            outputs.append(output)
        return map_tensors(lambda *leaves: torch.stack(leaves, dim=1), *outputs), state

    def encode(self, inputs: PolicyInput, state: PolicyMemory | None = None) -> Tensor:
        """The memory's input: features of observation, previous action and reward, and time.

        Args:
            inputs: At one time step or at T of them.
            state: The state before them; only a frame stack needs it.
        """
        frames = None if state is None else state.frames
        beside = self._beside(inputs, inputs.starts)
        features, _ = self._actor.features(inputs, beside, self._low, frames)
        return self._actor.projected(features)

    @property
    def _low(self) -> bool:
        """Whether encoders compute in bfloat16."""
        return self.config.encoder.bfloat16 or self.config.precision == "bfloat16"

    def _beside(self, inputs: PolicyInput, opens: Bool[Tensor, "*B"] | None) -> list[Tensor]:
        """The features beside those of the observation; None: nothing opens."""
        config = self.config.encoder
        features: list[Tensor] = []
        if config.previous_action:
            features.append(_unless(opens, self.head.features(inputs.previous_action)))
        if config.previous_reward:
            features.append(_unless(opens, inputs.previous_reward.unsqueeze(-1)))
        if config.time_frequencies:
            features.append(sines(inputs.elapsed, config.time_frequencies))
        return features

    def heads(
        self,
        y: Float[Tensor, "*B E"],
        inputs: PolicyInput,
        of_critic: Float[Tensor, "*B E"] | None = None,
    ) -> PolicyOutput:
        """The output, given that of the stack, and of the critic's where it has one of its own."""
        with without_autocast(y.device):
            y = at_least_float32(y)
            choices = self.head.linear(y)
            if self.config.without_critic:
                return self._output(inputs, choices)
            read = y if of_critic is None else at_least_float32(of_critic)
            return self._output(inputs, choices, self.value(read))

    def _output(
        self,
        inputs: PolicyInput,
        choices: Float[Tensor, "*B A"],
        value: Float[Tensor, "*B K"] | None = None,
    ) -> PolicyOutput:
        mask = inputs.observation[ACTION_MASK] if self.masked else None
        action = self.head.distribution(choices, mask)
        if value is None:
            unknown = choices.new_full((*choices.shape[:-1], 1), math.nan)
            return PolicyOutput(action, unknown.squeeze(-1), unknown)
        return PolicyOutput(action, self.critic.values(value), value)

    def noise(
        self, output: PolicyOutput, action: Shaped[Tensor, "N A"]
    ) -> Float[Tensor, "N A"] | None:
        """The noise of an action, if that of the next one is to be correlated with it."""
        if not self.config.action.noise_correlation:
            return None
        assert not isinstance(output.action, Categorical | Beta), "a configuration says so"
        return output.action.noise(action)

    def after(self, output: PolicyOutput, noise: Float[Tensor, "*B A"] | None) -> PolicyOutput:
        """The output in training, given the noise of the actions before if it is correlated."""
        if noise is None or isinstance(output.action, Categorical | Beta):
            return output
        correlation = self.config.action.noise_correlation
        return output._replace(action=output.action.after(noise, correlation))

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
        chosen = output.action.log_probs if isinstance(output.action, Categorical) else action
        total = chosen.sum()
        if not self.config.without_critic:
            total = total + output.value.sum()
        if not may_look(action):
            # one transfer for both
            both = torch.cat([action.flatten().double(), total.double().view(1)]).cpu()
            action, total = both[:-1].view(action.shape).to(action.dtype), both[-1]
        self.check_finite(total, inputs)
        return self.head.to_environment(action)

    def check_finite(self, total: Float[Tensor, ""], inputs: PolicyInput) -> None:
        """Check an output of the policy by a sum: each number that leaves a device takes time.

        Raises:
            DivergedError: If it is not finite.
        """
        if not math.isfinite(total.detach().item()):
            raise DivergedError(f"the policy's output is not finite: {cause(self, inputs)}")

    def learned_reward(self, reward: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """The reward in the learner's units, before any running normalisation."""
        scale, clip = self.config.reward.scale, self.config.reward.clip
        reward = reward if scale == 1 else reward * scale
        return bounded(reward, LARGEST if clip is None else clip)

    def reward_feature(self, reward: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """A raw reward as the encoder sees it; normalised ones are 0 before the first update.

        A replay reads what was made of a reward when the policy acted.
        """
        reward, moments = self.learned_reward(reward), self.return_moments
        if moments is None or not self.divides:
            return reward
        scale = moments.variance.sqrt().float()
        known = (moments.count > 0) & (scale > 0)
        feature = torch.where(known, reward / torch.where(known, scale, 1.0), 0.0)
        return bounded(feature, moments.clip)

    def update_normalisers(self, observation: Any, returns: Float[Tensor, "N T"]) -> None:
        """Update the normalisers between two rollouts, so that a rollout and its replay agree."""
        if self.return_moments is not None:
            self.return_moments.update(returns.unsqueeze(-1))
        update_moments(self.encoder, observation)
        if self._critic is not None:
            update_moments(self._critic.encoder, observation)


def _unroll(
    starts: Bool[Tensor, "N T"], core: MemoryCore[Any], x: Float[Tensor, "N T D"], state: Any
) -> tuple[Float[Tensor, "N T E"], Any]:
    return core.unroll(x, state, starts)
