"""The hybrid of a softmax window and a delta memory, against its equations and its two halves."""

import math

import numpy as np
import pytest
import torch

from fwrl.config import ConfigError, validate
from fwrl.core import state_size, unroll_by_steps
from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.cores.hybrid import HybridConfig
from fwrl.cores.window_attention import WindowAttentionConfig
from fwrl.inspection.recall_map import values_of
from fwrl.state import map_tensors, tensors_in

B, D, HEADS, SIZE = 2, 8, 2, 4
LENGTHS = [1, 2, 63, 64, 65, 257]


def build(config):
    """A core in float64 whose parameters are nowhere special."""
    torch.manual_seed(0)
    core = config.build(D).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return core


def inputs(times, share=0.05):
    generator = torch.Generator().manual_seed(times)
    x = torch.randn(B, times, D, dtype=torch.double, generator=generator)
    return x, torch.rand(B, times, generator=generator) < share


def started(core):
    return map_tensors(torch.Tensor.double, core.initial_state(B))


def numbers(tensor):
    return tensor.detach().numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def unit(x):
    silu = x * sigmoid(x)
    return silu / np.sqrt((silu**2).sum() + 1e-6)


def by_hand(core, config, x, starts):
    """One stream by the equations of the paper, one head and one time after another."""
    rows, project = [], numbers(core.project.weight).reshape(3, HEADS, SIZE, D)
    for now, start in zip(numbers(x), starts, strict=True):
        if start or not rows:
            weights = np.zeros((HEADS, SIZE, SIZE))
            pairs, recent = [[] for _ in range(HEADS)], []
        recent = [*recent, project @ now][-max(config.short_convolution, 1) :]
        q, k, v = recent[-1]
        if config.short_convolution:
            taps = numbers(core.convolution.weight).reshape(-1, 3, HEADS, SIZE)
            q, k, v = sum(taps[age] * each for age, each in enumerate(reversed(recent)))
            v = v * sigmoid(v)
        mixed = np.ones((2, HEADS))
        if core.mixer is not None:
            mixed = numbers(core.mixer.weight) @ now + numbers(core.mixer.bias)
            mixed = sigmoid(mixed).reshape(-1, HEADS)
        heads = []
        for h in range(HEADS):
            read = np.zeros(SIZE)
            if config.window:
                pairs[h] = [*pairs[h], (k[h], v[h])][-config.window :]
                scores = np.array([key @ q[h] for key, _ in pairs[h]]) / math.sqrt(SIZE)
                share = np.exp(scores) / np.exp(scores).sum()
                found = sum(s * value for s, (_, value) in zip(share, pairs[h], strict=True))
                read = read + mixed[0, h] * found
            if config.delta:
                b = sigmoid(numbers(core.beta.weight) @ now + numbers(core.beta.bias))[h]
                key, query = unit(k[h]), unit(q[h])
                weights[h] += b * np.outer(key, v[h] - key @ weights[h])
                read = read + mixed[-1, h] * (query @ weights[h])
            if config.output_norm == "rms":
                read = read / np.sqrt((read**2).mean() + np.finfo(np.float64).eps)
                read = read * numbers(core.output_norm.weight)
            heads.append(read)
        rows.append(numbers(core.output.weight) @ np.concatenate(heads))
    return torch.from_numpy(np.array(rows))


# no positions: their angles are constants in float32
PLAIN = {"heads": HEADS, "positions": "none"}
VARIANTS = {
    "published": {"window": 5, "short_convolution": 4, "output_norm": "rms"},
    "plain": {"window": 5},
    "sum": {"window": 5, "mixer": "sum"},
    "wide": {"window": 50},
    "window of one": {"window": 1},
    "delta alone": {"window": 0},
    "window alone": {"window": 5, "delta": False},
}
every_variant = pytest.mark.parametrize("name", VARIANTS)


@every_variant
def test_it_is_its_equations(name):
    config = HybridConfig(**PLAIN, **VARIANTS[name])
    core = build(config)
    x, starts = inputs(60)
    starts[0, 11:13] = True
    y, _ = core.unroll(x, started(core), starts)
    for stream in range(B):
        expected = by_hand(core, config, x[stream], starts[stream])
        torch.testing.assert_close(y[stream], expected, atol=1e-9, rtol=1e-9)


@pytest.mark.unchecked
@pytest.mark.parametrize("name", ["published", "sum"])
@pytest.mark.parametrize("times", LENGTHS)
@torch.no_grad()
def test_any_length_equals_its_steps(name, times):
    core = build(HybridConfig(heads=HEADS, **VARIANTS[name]))
    x, starts = inputs(times)
    _, state = core.unroll(*inputs(7)[:1], started(core), torch.zeros(B, 7, dtype=torch.bool))
    whole, steps = core.unroll(x, state, starts), unroll_by_steps(core, x, state, starts)
    torch.testing.assert_close(whole[0], steps[0], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(tensors_in(whole[1]), tensors_in(steps[1]), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("positions", ["rotary", "relative", "none"])
@pytest.mark.parametrize("times", LENGTHS)
def test_without_delta_a_window_as_long_as_the_sequence_is_softmax_attention(times, positions):
    both = {"heads": HEADS, "window": times, "positions": positions}
    core = build(HybridConfig(delta=False, mixer="sum", **both))
    attention = build(WindowAttentionConfig(**both))
    with torch.no_grad():
        attention.attention.query.weight.copy_(core.project.weight[:D])
        attention.attention.key_value.weight.copy_(core.project.weight[D:])
        attention.attention.output.weight.copy_(core.output.weight)
    attention.attention.scores.load_state_dict(core.scores.state_dict())
    x, starts = inputs(times)
    y, state = core.unroll(x, started(core), starts)
    expected, end = attention.unroll(x, started(attention), starts)
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(state.window, end.window, atol=1e-14, rtol=0)
    assert state.weights.numel() == 0


@pytest.mark.parametrize("convolution", [0, 4])
@pytest.mark.parametrize("times", LENGTHS)
def test_without_a_window_it_is_the_delta_rule(times, convolution):
    both = {"heads": HEADS, "short_convolution": convolution}
    core = build(HybridConfig(window=0, mixer="sum", **both))
    delta = build(FastWeightConfig(update_rule="delta", **both))
    delta.load_state_dict(core.state_dict())
    x, starts = inputs(times)
    y, state = core.unroll(x, started(core), starts)
    expected, end = delta.unroll(x, started(delta), starts)
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(state.weights, end.weights, atol=1e-12, rtol=1e-12)
    assert state_size(core) == state_size(delta) + 1


def test_what_has_left_the_window_is_still_in_the_fast_weights():
    core = build(HybridConfig(heads=HEADS, window=3))
    x, starts = inputs(20, share=0.0)
    x.requires_grad_()
    for delta, first in ((True, 0), (False, 17)):
        if not delta:
            core.beta = None
        y, _ = core.unroll(x, started(core), starts)
        (gradient,) = torch.autograd.grad(y[:, -1].sum(), x)
        reached = (gradient.abs().sum(dim=(0, 2)) > 0).nonzero().squeeze(1)
        assert reached.tolist() == list(range(first, 20))


def test_the_map_is_that_of_what_the_delta_memory_adds():
    core = build(HybridConfig(heads=HEADS, window=5))
    x, starts = inputs(30)
    (reads,) = core.reads(x, started(core), starts)
    y, _ = core.unroll(x, started(core), starts)
    core.beta = None
    without, _ = core.unroll(x, started(core), starts)
    torch.testing.assert_close(core.output(values_of(reads).flatten(-2)), y - without)
    assert "window of keys by a softmax is added" in core.remark
    alone = build(HybridConfig(heads=HEADS, delta=False))
    assert alone.reads(x, started(alone), starts) == []


def test_nothing_to_remember_by_is_refused_in_one_line():
    with pytest.raises(ConfigError, match="window is 0 and delta is false") as error:
        validate(HybridConfig, {"window": 0, "delta": False}, "core")
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="hybrid: input_size 30 does not divide into 4 heads"):
        HybridConfig().build(30)
