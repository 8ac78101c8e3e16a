"""A task on the device end to end, plainly and as CUDA graphs: its speed, and what it learns.

    python benchmarks/gpu_graphs.py [--seconds 60] [--envs 256]

One graph holds a whole step of all streams, from the policy to the environment's answer; another a
whole gradient step. Both are tried; what cannot be captured is said and runs plainly, as all does
where there is no CUDA device.
"""

# ruff: noqa: T201

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.advantages import gae
from agents.policy import PolicyConfig, PolicyInput, RecurrentPolicy
from agents.ppo import PPOConfig, gradient_step, ppo_loss, schedule
from agents.rollout import Rollout, following_inputs, start
from envs.on_device.repeat_previous import Cards, RepeatPreviousOnDevice, Rules
from fwrl.state import detach_state, map_tensors, tensors_in

# Runs of a function before it is captured, which let libraries choose and allocate.
WARM_UP = 3

Function = Callable[[Any], Any]


class Streams(NamedTuple):
    """Everything that a step reads and replaces."""

    inputs: PolicyInput
    memory: Any
    cards: Cards


class Column(NamedTuple):
    """One time of a rollout."""

    inputs: PolicyInput
    action: Tensor
    log_prob: Tensor
    value: Tensor
    reward: Tensor
    last: Tensor


@torch.no_grad()
def act(policy: RecurrentPolicy, rules: Rules, before: Streams) -> tuple[Streams, Column]:
    """One step of all streams."""
    output, memory = policy.step(before.inputs, before.memory)
    action = output.action.sample()
    cards, step = rules.advance(before.cards, policy.head.environment_action(action))
    inputs = following_inputs(policy, before.inputs, action, step)
    log_prob = output.action.log_prob(action)
    column = Column(
        before.inputs, action, log_prob, output.value, inputs.previous_reward, inputs.starts
    )
    return Streams(inputs, memory, cards), column


def learn(
    policy: RecurrentPolicy, optimizer: torch.optim.Optimizer, config: PPOConfig, batch: Rollout
) -> Tensor:
    """One gradient step; returns the loss."""
    loss, _ = ppo_loss(policy, batch, config, schedule(config, 1.0))
    gradient_step(policy, optimizer, loss, config)
    return loss.detach()


def captured(function: Function, given: Any) -> Function:
    """The function as a CUDA graph, which is replayed with what each call is given.

    Raises:
        RuntimeError: If something in it cannot be captured.
    """
    held = map_tensors(torch.clone, given)
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(WARM_UP):
            function(held)
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = function(held)

    def replay(now: Any) -> Any:
        for place, leaf in zip(tensors_in(held), tensors_in(now), strict=True):
            place.copy_(leaf)
        graph.replay()
        # the next replay writes to the same memory
        return map_tensors(torch.clone, found)

    return replay


def tried(name: str, function: Function, given: Any) -> tuple[Function, str]:
    """The function as a graph if that works, else as it is; and which of both, in words."""
    if tensors_in(given)[0].device.type != "cuda":
        return function, f"{name}: plain, there is no CUDA device"
    try:
        return captured(function, given), f"{name}: as a CUDA graph"
    # whatever cannot be captured: that is a result
    except Exception as error:
        torch.cuda.synchronize()
        return function, f"{name}: plain, not captured: {' '.join(str(error).split())[:200]}"


def rollout_of(
    step: Function, policy: RecurrentPolicy, streams: Streams, config: PPOConfig
) -> tuple[Rollout, Streams, Tensor]:
    """A rollout, the streams after it, and the mean reward of its steps."""
    memory, columns = streams.memory, list[Column]()
    for _ in range(config.num_steps):
        streams, column = step(streams)
        columns.append(column)
    inputs, action, log_prob, value, reward, last = map_tensors(
        lambda *leaves: torch.stack(leaves, dim=1), *columns
    )
    with torch.no_grad():
        after = policy.step(streams.inputs, streams.memory)[0].value
        # the task ends its episodes itself
        later = torch.cat([value[:, 1:], after.unsqueeze(1)], dim=1).masked_fill(last, 0.0)
        advantage = gae(reward, value, later, last, config.discount, config.gae_lambda)
    rollout = Rollout(inputs, memory, action, log_prob, value, advantage, torch.zeros_like(value))
    return rollout, streams, reward.mean()


class Setup(NamedTuple):
    """A policy, its optimiser, and the streams that it acts in."""

    policy: RecurrentPolicy
    optimizer: torch.optim.Optimizer
    rules: Rules
    streams: Streams


def made(num_envs: int, device: torch.device, config: PPOConfig) -> Setup:
    """Everything at its beginning, from a fixed seed."""
    torch.manual_seed(0)
    envs = RepeatPreviousOnDevice(num_envs)
    policy = RecurrentPolicy(envs.observation_space, envs.action_space, PolicyConfig()).to(device)
    optimizer = torch.optim.Adam(
        policy.parameters(),
        lr=config.learning_rate,
        eps=config.adam_epsilon,
        fused=True,
        # a graph cannot ask the host how many steps there were
        capturable=device.type == "cuda",
    )
    inputs, memory, *_ = start(envs, policy, seed=0)
    cards = map_tensors(lambda leaf: leaf.to(device), envs.cards)
    return Setup(policy, optimizer, envs.rules, Streams(inputs, memory, cards))


def run(
    setup: Setup, step: Function, update: Function, config: PPOConfig, seconds: float
) -> tuple[float, list[float]]:
    """Steps per second of rollouts and updates for so long, and the mean return after each."""
    streams, rewards, steps = setup.streams, list[Tensor](), 0
    wait = torch.cuda.synchronize if setup.policy.device.type == "cuda" else lambda: None
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        rollout, streams, reward = rollout_of(step, setup.policy, streams, config)
        rewards.append(reward)
        for _ in range(config.epochs):
            for batch in rollout.minibatches(config.minibatches):
                update(batch)
        streams = detach_state(streams)
        steps += rollout.value.numel()
        wait()
    speed = steps / (time.perf_counter() - began)
    return speed, [reward.item() * setup.rules.length for reward in rewards]


def main() -> None:
    """Measure both ways, and print what came of it as lines of a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--envs", type=int, default=256)
    chosen = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = PPOConfig(num_steps=64, learning_rate=1e-3, discount=0.5)
    print("| acting and learning | steps/s | first return | last return |", flush=True)
    print("|---|---|---|---|", flush=True)
    for with_graphs in (False, True):
        setup = made(chosen.envs, device, config)
        step = partial(act, setup.policy, setup.rules)
        update = partial(learn, setup.policy, setup.optimizer, config)
        how = "plain"
        if with_graphs:
            rollout, streams, _ = rollout_of(step, setup.policy, setup.streams, config)
            batch = next(rollout.minibatches(config.minibatches))
            step, acting = tried("acting", step, streams)
            update, learning = tried("learning", update, batch)
            how = f"{acting}; {learning}"
        else:
            run(setup, step, update, config, min(5.0, chosen.seconds))
        speed, returns = run(setup, step, update, config, chosen.seconds / 2)
        print(f"| {how} | {speed:,.0f} | {returns[0]:.2f} | {returns[-1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
