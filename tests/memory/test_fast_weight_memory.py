"""Fast weight memory: the worked example, and the equations one time after another."""

from functools import partial

import numpy as np
import pytest
import torch

from fwrl import unroll_by_steps
from fwrl.cores import fast_weight_memory as module
from fwrl.cores.fast_weight_memory import FastWeightMemoryConfig, bind, follow, recall_episode
from fwrl.state import map_tensors
from fwrl.update_rules import Write, clipped_delta_rule

B, T, D = 2, 7, 5

VARIANTS = {
    "agents": {},
    "catbabi": {"read_tanh": "edges", "residual": False, "forget_bias": 1.0},
    "word level": {"scale_write": False, "read_tanh": "all"},
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def doubles(*numbers):
    """One stream, one head."""
    return torch.tensor([[numbers]], dtype=torch.double)


def triple(first, second, value, beta):
    # the write strength is divided by the memory size, 2
    return Write(bind(doubles(*first), doubles(*second)), doubles(*value), doubles(beta / 2))


def worked_memory():
    memory = torch.zeros(1, 1, 4, 2, dtype=torch.double)
    memory = clipped_delta_rule(memory, triple((0.5, -0.5), (1, 0.5), (1, 2), 0.8))
    return clipped_delta_rule(memory, triple((0.2, 0.4), (-0.5, 0.5), (-1, 0.5), 0.6))


def test_two_writes_are_the_worked_example():
    rows = [[0.2303, 0.0697, -0.1394, -0.1606], [0.3856, 0.2144, -0.4288, -0.1712]]
    expected = torch.tensor(rows, dtype=torch.double)
    # the example is given to four digits, some of them exact
    torch.testing.assert_close(worked_memory()[0, 0].T, expected, atol=5e-5, rtol=0)


def test_two_chained_reads_are_the_worked_example():
    path = torch.tensor([[[0.3, 0.7], [1, 0], [0.5, 0.5]]], dtype=torch.double)
    first = follow(worked_memory(), path[:, :2])
    second = follow(worked_memory(), path)
    torch.testing.assert_close(first, doubles(0.999179, -0.999179), atol=5e-7, rtol=0)
    torch.testing.assert_close(second, doubles(-0.999777, 0.999777), atol=5e-7, rtol=0)


def test_a_key_holds_every_product_of_its_parts_in_order():
    expected = doubles(4, 5, 8, 10, 12, 15)
    torch.testing.assert_close(bind(doubles(1, 2, 3), doubles(4, 5)), expected)


def test_a_memory_is_never_longer_than_one_and_a_short_one_is_left_alone():
    memory = torch.full((1, 1, 4, 2), 0.1, dtype=torch.double)
    nothing = triple((0, 0), (0, 0), (0, 0), 1)
    torch.testing.assert_close(clipped_delta_rule(memory, nothing), memory, atol=0, rtol=0)
    long = clipped_delta_rule(memory, triple((3, 1), (2, 2), (5, -4), 2))
    torch.testing.assert_close(long.norm(), torch.ones((), dtype=torch.double))


def build(variant, **sizes):
    torch.manual_seed(0)
    core = FastWeightMemoryConfig(**VARIANTS[variant], **sizes).build(D).double()
    with torch.no_grad():
        # strong writes, so that the memory is clipped at some times and not at others
        for parameter in core.parameters():
            parameter.mul_(2.0)
    return core


def empty(core):
    return map_tensors(torch.Tensor.double, core.initial_state(B))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def layer_norm(x):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5)


class NumpyMemory:
    """One stream; the memory has axes value, first part, second part, as in the paper."""

    def __init__(self, core, config):
        self.config, self.size = config, config.memory_size
        self.weights = {name: p.detach().numpy() for name, p in core.named_parameters()}
        self.clips = []
        self.clear()

    def clear(self):
        hidden = self.weights["cell.recurrent.weight"].shape[1]
        self.h, self.c = np.zeros(hidden), np.zeros(hidden)
        self.memory = np.zeros((self.size,) * 3)

    def linear(self, name, x):
        return self.weights[f"{name}.weight"] @ x + self.weights[f"{name}.bias"]

    def step(self, x):
        gates = self.linear("cell.input", x) + self.weights["cell.recurrent.weight"] @ self.h
        i, f, g, o = np.split(gates, 4)
        self.c = sigmoid(f + self.config.forget_bias) * self.c + sigmoid(i) * np.tanh(g)
        self.h = sigmoid(o) * np.tanh(self.c)
        *parts, strength = np.split(self.linear("write", self.h), np.arange(1, 4) * self.size)
        s, r, t = map(np.tanh, parts)
        old = np.einsum("tsr,s,r->t", self.memory, s, r)
        rate = sigmoid(strength[0] + 1) / (self.size if self.config.scale_write else 1)
        self.memory = self.memory + rate * np.einsum("t,s,r->tsr", t - old, s, r)
        length = np.sqrt((self.memory**2).sum())
        self.clips.append(length > 1)
        self.memory = self.memory / max(1.0, length)
        n, *edges = np.split(self.linear("question", self.h), 1 + self.config.reads)
        n = np.tanh(n) if self.config.read_tanh == "all" else n
        for e in edges if self.config.read_tanh == "none" else np.tanh(edges):
            n = layer_norm(np.einsum("tsr,s,r->t", self.memory, n, e))
        found = self.linear("output", n)
        return self.h + found if self.config.residual else found


@every_variant
def test_the_core_equals_its_equations_one_time_after_another(variant):
    sizes = {"hidden_size": 6, "memory_size": 3, "reads": 4}
    core = build(variant, **sizes)
    config = FastWeightMemoryConfig(**VARIANTS[variant], **sizes)
    x = 3 * torch.randn(B, T, D, dtype=torch.double)
    starts = torch.zeros(B, T, dtype=torch.bool)
    starts[1, 3] = True
    y, end = core.unroll(x, empty(core), starts)
    clips = []
    for b in range(B):
        memory = NumpyMemory(core, config)
        for t in range(T):
            if starts[b, t]:
                memory.clear()
            np.testing.assert_allclose(y[b, t].detach(), memory.step(x[b, t].numpy()), atol=1e-10)
        kept = end.memory[b, 0].detach().view(3, 3, 3).permute(2, 0, 1)
        np.testing.assert_allclose(kept, memory.memory, atol=1e-10)
        np.testing.assert_allclose(end.slow.hidden[b].detach(), memory.h, atol=1e-10)
        np.testing.assert_allclose(end.slow.cell[b].detach(), memory.c, atol=1e-10)
        clips += memory.clips
    # a divided write strength is too small for the clip to be met in so short a time
    assert any(clips) != config.scale_write
    assert not all(clips)


@pytest.mark.parametrize("length", [1, 2, 12])
@every_variant
def test_a_whole_episode_at_once_equals_its_steps(variant, length):
    """Also where the memory is clipped, and whatever was remembered before it began."""
    core = build(variant, memory_size=3, hidden_size=6)
    x = 3 * torch.randn(B, length, D, dtype=torch.double)
    starts = torch.zeros(B, length, dtype=torch.bool)
    starts[:, 0] = True
    before = map_tensors(lambda leaf: torch.full_like(leaf, torch.nan).double(), empty(core))
    outputs, memories, gradients = [], [], []
    for unroll in (core.unroll, partial(unroll_by_steps, core)):
        y, end = unroll(x, before, starts)
        core.zero_grad()
        (y.square().sum() + (end.memory * torch.arange(3.0)).sum()).backward()
        outputs.append(y)
        memories.append(end.memory)
        gradients.append([parameter.grad.clone() for parameter in core.parameters()])
    for one, other in (outputs, memories, gradients):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-9)
    assert memories[0].square().sum(dim=(1, 2, 3)).max() <= 1 + 1e-12


def test_only_whole_and_short_episodes_are_read_at_once(monkeypatch):
    core = build("agents", memory_size=3)
    lengths = []

    def watch(asked):
        lengths.append(asked.triple.shape[1])
        return recall_episode(asked)

    monkeypatch.setattr(module, "recall_episode", watch)
    for length, again in [(12, None), (13, None), (12, 5), (12, 0)]:
        starts = torch.zeros(B, length, dtype=torch.bool)
        starts[:, 0] = again != 0
        if again is not None:
            starts[1, again] = True
        core.unroll(torch.randn(B, length, D, dtype=torch.double), empty(core), starts)
    assert lengths == [12]


def test_the_published_agent_has_its_parameters():
    core = FastWeightMemoryConfig(hidden_size=32).build(17)
    heads = torch.nn.Linear(32, 3 + 1)
    count = sum(p.numel() for module in (core, heads) for p in module.parameters())
    # the second bias of each gate is the only difference
    assert count == 10_933 - 4 * 32


def test_writes_and_questions_begin_as_published():
    core = FastWeightMemoryConfig(hidden_size=80).build(8)
    bound = (6 / (80 + 16)) ** 0.5
    for layer in (core.write, core.question):
        assert 0.98 * bound < layer.weight.abs().max() <= bound


def test_the_output_has_the_size_of_the_slow_network():
    core = FastWeightMemoryConfig(hidden_size=9).build(4)
    y, state = core.step(torch.zeros(2, 4), core.initial_state(2))
    assert y.shape == (2, core.output_size) == (2, 9)
    assert state.memory.shape == (2, 1, 256, 16)
