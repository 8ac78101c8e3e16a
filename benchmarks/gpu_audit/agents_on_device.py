"""Every part of an agent on pretended CUDA tensors: it acts, learns, collects and updates."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from agents import on_device, ppo
from agents.encoders import EncoderConfig
from agents.policy import PolicyConfig, PolicyInput, RecurrentPolicy, RewardConfig
from agents.ppo import PPOConfig, make_optimizer, ppo_update
from agents.rollout import EpisodeCounter, collect, start, to_tensors
from agents.spaces import ACTION_MASK
from benchmarks.gpu_audit.pretended import backward, nothing_crosses, pretended_cuda
from envs.on_device.repeat_previous import RepeatPreviousOnDevice
from fwrl.cores import CORES
from fwrl.cores.agalite import AGaLiTeConfig
from fwrl.cores.delta_lstm import DeltaLSTMConfig
from fwrl.cores.delta_rnn import DeltaRNNConfig
from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.cores.fast_weight_memory import FastWeightMemoryConfig
from fwrl.cores.gru import GRUConfig
from fwrl.cores.infinite_former import InfiniteFormerConfig
from fwrl.cores.window_attention import WindowAttentionConfig
from fwrl.feature_maps import FEATURE_MAPS
from fwrl.stack import StackConfig
from fwrl.update_rules import UPDATE_RULES

N, T = 4, 40
SYMBOL = spaces.Discrete(4)

Check = Callable[[], None]


def cores() -> dict[str, Any]:
    """Every memory, and settings of them that take another path."""
    found: dict[str, Any] = {kind: config() for kind, config in CORES.items()}
    offered = (name for name, rule in UPDATE_RULES.items() if rule.offered)
    found |= {f"fast_weight, {name}": FastWeightConfig(update_rule=name) for name in offered}
    for name in FEATURE_MAPS:
        found[f"fast_weight, {name}"] = FastWeightConfig(feature_map=name)
    found["agalite, exact"] = AGaLiTeConfig(exact=True)
    found["delta_rnn, 1"] = DeltaRNNConfig(version=1)
    found["delta_lstm, 1"] = DeltaLSTMConfig(version=1)
    found["fast_weight_memory, all"] = FastWeightMemoryConfig(read_tanh="all")
    found["infinite_former, sticky"] = InfiniteFormerConfig(sticky=True, input_gate=True)
    for positions in ("relative", "none"):
        found[f"window_attention, {positions}"] = WindowAttentionConfig(positions=positions)
    return found


def observation_spaces() -> dict[str, tuple[spaces.Space[Any], EncoderConfig]]:
    """A space for every encoder."""
    plain = EncoderConfig()
    vector = spaces.Box(-1, 1, (3,), np.float32)
    both = spaces.Dict({"seen": vector, "symbol": spaces.Discrete(5, start=2)})
    masked = spaces.Dict({"seen": vector, ACTION_MASK: spaces.Box(0, 1, (4,), np.int8)})
    return {
        "symbol": (SYMBOL, plain),
        "symbol, embedded": (spaces.Discrete(5000), plain),
        "symbols": (spaces.MultiDiscrete([3, 4], start=[1, 2]), plain),
        "symbols, some embedded": (spaces.MultiDiscrete([3, 5000]), plain),
        "bits": (spaces.MultiBinary(5), plain),
        "vector": (vector, EncoderConfig(time_frequencies=4)),
        "vector, normalised": (vector, EncoderConfig(normalise_observations=True)),
        "picture, nature": (spaces.Box(0, 255, (3, 84, 84), np.uint8), plain),
        "picture, impala": (spaces.Box(0, 255, (16, 16, 3), np.uint8), plain),
        "picture, bfloat16": (spaces.Box(0, 255, (84, 84), np.uint8), EncoderConfig(bfloat16=True)),
        "map of symbols": (spaces.Box(0, 255, (7, 7, 3), np.uint8), plain),
        "dictionary": (both, plain),
        "tuple": (spaces.Tuple([vector, SYMBOL]), plain),
        "with a mask": (masked, plain),
    }


def action_spaces() -> dict[str, spaces.Space[Any]]:
    """A space for every head."""
    return {
        "discrete": spaces.Discrete(4, start=1),
        "several": spaces.MultiDiscrete([2, 3]),
        "several alike": spaces.MultiDiscrete([3, 3]),
        "bits": spaces.MultiBinary(3),
        "box": spaces.Box(-2, 5, (2,), np.float32),
    }


def checks() -> dict[str, Check]:
    """Everything that is tried, by name."""
    found: dict[str, Check] = {}
    for name, core in cores().items():
        found[f"memory: {name}"] = partial(acts_and_learns, PolicyConfig(core=core))
    small = PolicyConfig(core=GRUConfig())
    for name, (space, encoder) in observation_spaces().items():
        config = small.model_copy(update={"encoder": encoder})
        found[f"observation: {name}"] = partial(acts_and_learns, config, space)
    for name, space in action_spaces().items():
        found[f"action: {name}"] = partial(acts_and_learns, small, SYMBOL, space)
    for name, stack in {
        "gates": StackConfig(gate=True, layers=2),
        "bare": StackConfig(bare=True),
    }.items():
        found[f"stack: {name}"] = partial(
            acts_and_learns, small.model_copy(update={"stack": stack})
        )
    found["rollouts and updates"] = collects_and_updates
    return found


def new_policy(
    config: PolicyConfig, observations: spaces.Space[Any], actions: spaces.Space[Any]
) -> RecurrentPolicy:
    """A policy on the pretended device."""
    return RecurrentPolicy(observations, actions, config)


def sequence(policy: RecurrentPolicy) -> PolicyInput:
    """N sequences of T inputs."""
    row = to_tensors(policy.observation_space.sample(), torch.device("cuda"))
    repeat = partial(_repeated, (N, T))
    observation = _mapped(repeat, row)
    elapsed = torch.zeros(N, T, dtype=torch.int64)
    action = policy.initial_action(N).unsqueeze(1).expand(N, T, -1).contiguous()
    return PolicyInput(observation, action, torch.zeros(N, T), elapsed)


def _repeated(leading: tuple[int, ...], leaf: Tensor) -> Tensor:
    return leaf.expand(*leading, *leaf.shape).contiguous()


def _mapped(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _mapped(function, part) for key, part in tree.items()}
    if isinstance(tree, tuple):
        return tuple(_mapped(function, part) for part in tree)
    return function(tree)


def acts_and_learns(
    config: PolicyConfig,
    observations: spaces.Space[Any] = SYMBOL,
    actions: spaces.Space[Any] = SYMBOL,
) -> None:
    """One step, one sequence, its loss and every gradient, all of it on the device."""
    with pretended_cuda():
        policy = new_policy(config, observations, actions)
        inputs = sequence(policy)
        now = PolicyInput(*(_mapped(lambda x: x[:, 0], part) for part in inputs))
        with nothing_crosses():
            state = policy.initial_state(N)
            with torch.no_grad():
                output, state = policy.step(now, state)
                action = output.action.sample()
                policy.head.environment_action(action)
            output, _ = policy.unroll(inputs, state)
            chosen = output.action.log_prob(output.action.mode()) + output.action.entropy()
            backward(output.value.sum() + chosen.sum())
        without = [name for name, each in policy.named_parameters() if each.grad is None]
        assert not without, f"no gradient reaches {', '.join(without)}"


@contextmanager
def questions_at_the_end() -> Iterator[None]:
    """A block in which the only questions that are allowed are not asked.

    One at the end of a rollout: its episodes, and whether the policy was finite. One at the end of
    an update: its metrics.
    """
    with (
        patch.object(RecurrentPolicy, "check_finite", lambda *_: None),
        patch("agents.rollout.fetched", lambda _: list[on_device.HostStep]()),
        patch.object(ppo, "on_host", lambda numbers: [0.0] * len(numbers)),
        patch.object(Tensor, "backward", backward),
    ):
        yield


def collects_and_updates() -> None:
    """Two rollouts in environments on the device, and the updates between them."""
    reward, encoder = RewardConfig(normalise=True), EncoderConfig(time_frequencies=4)
    policy_config = PolicyConfig(encoder=encoder, reward=reward)
    config = PPOConfig(num_steps=T, sequence_length=T // 2, minibatches=2, epochs=2, value_clip=0.2)
    with pretended_cuda():
        envs = RepeatPreviousOnDevice(N)
        policy = new_policy(policy_config, envs.observation_space, envs.action_space)
        optimizer = make_optimizer(policy, config)
        carry, counter = _start(envs, policy), EpisodeCounter(N)
        with questions_at_the_end(), nothing_crosses():
            for _ in range(2):
                rollout, carry, _ = collect(
                    envs, policy, carry, T, 0.99, 0.95, counter, config.sequence_length
                )
                ppo_update(policy, optimizer, rollout, config)


def _start(envs: RepeatPreviousOnDevice, policy: RecurrentPolicy) -> Any:
    """As ``start``, whose first observations are numbers of the host."""
    with patch.object(envs, "reset", lambda _: np.zeros(N, np.int64)):
        carry = start(envs, policy, seed=0)
    envs.step_on_device(torch.zeros(N, dtype=torch.int64))
    return carry
