"""One step without gradients: of the default memory, and of a whole policy, against LSTMs."""

from typing import Any

import torch
from gymnasium import spaces
from torch import nn

from agents.policy import PolicyConfig, PolicyInput, RecurrentPolicy
from fwrl.bench.benchmark import Measurement, Row
from fwrl.bench.speed.lstm_ppo import LSTMAgent
from fwrl.bench.speed.settings import DELTA_NET, SpeedSettings
from fwrl.bench.speed.timing import Compared, Run, compare, in_turns
from fwrl.core import MemoryCore
from fwrl.stack import StackConfig

# Suits that are seen and suits that are said, as in RepeatPrevious.
SYMBOLS = 4
MEMORY, CELL = "fast_weight", "LSTMCell"
POLICY, PEER = "whole policy step", "LSTM policy in one file"


def measure_acting(settings: SpeedSettings, device: torch.device, seed: int) -> Measurement:
    """A step of fast weights against an LSTM's, and of policies with them, by streams."""
    width = settings.width
    torch.manual_seed(seed)
    core = DELTA_NET.model_copy(update={"heads": settings.heads}).build(width).to(device)
    cell = nn.LSTMCell(width, width).to(device)
    config = PolicyConfig(stack=StackConfig(width=width))
    policy = RecurrentPolicy(spaces.Discrete(SYMBOLS), spaces.Discrete(SYMBOLS), config).to(device)
    agent = LSTMAgent((SYMBOLS,), SYMBOLS, width).to(device)
    rows: list[Row] = []
    for count in settings.acting_envs:
        symbols = torch.randint(SYMBOLS, (count,), device=device)
        runs = _memories(core, cell, torch.randn(count, width, device=device))
        runs |= {POLICY: _ours(policy, symbols), PEER: _theirs(agent, symbols)}
        times = yield from in_turns(runs, settings, device, f"{count} streams")
        for ours, peer in ((MEMORY, CELL), (POLICY, PEER)):
            compared = Compared(ours, peer, f"B {count}, width {width}", "us")
            rows.append(compare(compared, times[ours], times[peer]))
    return rows


def _memories(core: MemoryCore[Any], cell: nn.LSTMCell, x: torch.Tensor) -> dict[str, Run]:
    state = core.initial_state(x.shape[0], x.device)
    hidden = (torch.zeros_like(x), torch.zeros_like(x))

    def ours() -> None:
        nonlocal state
        with torch.no_grad():
            _, state = core.step(x, state)

    def theirs() -> None:
        nonlocal hidden
        with torch.no_grad():
            hidden = cell(x, hidden)

    return {MEMORY: ours, CELL: theirs}


def _ours(policy: RecurrentPolicy, symbols: torch.Tensor) -> Run:
    """From observations to actions and their probabilities, in the middle of episodes."""
    count, state = len(symbols), policy.initial_state(len(symbols))
    zeros, elapsed = torch.zeros(count, device=symbols.device), torch.ones_like(symbols)
    inputs = PolicyInput(symbols, policy.initial_action(count), zeros, elapsed)

    def run() -> None:
        nonlocal state
        with torch.no_grad():
            output, state = policy.step(inputs, state)
            output.action.draw()

    return run


def _theirs(agent: LSTMAgent, symbols: torch.Tensor) -> Run:
    zeros = torch.zeros(1, len(symbols), agent.lstm.hidden_size, device=symbols.device)
    starts, state = torch.zeros_like(symbols, dtype=torch.bool), (zeros, zeros)

    def run() -> None:
        nonlocal state
        with torch.no_grad():
            choice, _, state = agent(symbols.view(1, -1, 1), starts.unsqueeze(0), state)
            choice.log_prob(choice.sample())

    return run
