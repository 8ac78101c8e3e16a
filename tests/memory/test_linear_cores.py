"""Memories whose states are linear recurrences, each against a loop over its equations."""

import math
import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fwrl.config import ConfigError, validate
from fwrl.cores.agalite import AGaLiTeConfig, ExactState
from fwrl.cores.ffm import FFMConfig
from fwrl.cores.lru import LRUConfig
from fwrl.cores.mamba2 import Mamba2Config
from fwrl.cores.mingru import MinGRUConfig
from fwrl.cores.s5 import S5Config
from fwrl.cores.stable_hadamard import CYCLE, StableHadamardConfig, State
from fwrl.state import map_tensors, tensors_in

B, D = 2, 8


def layer(linear, x):
    y = linear.weight.detach().numpy() @ x
    return y if linear.bias is None else y + linear.bias.detach().numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lru_step(core, x, state):
    nu, theta, gamma = (
        np.exp(p.detach().numpy()) for p in (core.nu_log, core.theta_log, core.gamma_log)
    )
    b = core.input.weight.detach().numpy()
    c = core.output.weight.detach().numpy()
    h = np.exp(-nu + 1j * theta) * (state[:, 0] + 1j * state[:, 1])
    h = h + gamma * ((b[0::2] + 1j * b[1::2]) @ x)
    y = ((c[:, 0::2] - 1j * c[:, 1::2]) @ h).real + core.skip.detach().numpy() * x
    return y, np.stack([h.real, h.imag], axis=-1)


def gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def s5_step(core, x, state):
    """The equations of Smith et al. (2023), with a step of a whole unit for each number."""
    real, imaginary = core.rate.detach().numpy().T
    rate = np.minimum(real, -1e-4) + 1j * imaginary
    step = np.exp(core.time_step_log.detach().numpy())
    b, c = (part.weight.detach().numpy() for part in (core.input, core.output))
    held = (b[0::2] + 1j * b[1::2]) @ x
    h = np.exp(rate * step) * (state[:, 0] + 1j * state[:, 1])
    h = h + np.expm1(rate * step) / rate * held
    read = 2 * ((c[:, 0::2] - 1j * c[:, 1::2]) @ h).real
    y = gelu(read + core.skip.detach().numpy() * x)
    if core.gate is not None:
        *linear, logit = layer(core.gate, y).reshape(-1, D)
        y = (linear[0] if linear else y) * sigmoid(logit)
    return y, np.stack([h.real, h.imag], axis=-1)


def mamba2_step(core, x, state):
    """The recurrence of Dao and Gu (2024), with its own letters."""
    weights, recent = state[0].copy(), state[1]
    size, features = core.inner // core.heads, core.features
    z, xbc = np.split(layer(core.project, x), [core.inner])
    window = np.concatenate([recent, xbc[None]])
    taps = core.convolution.weight.detach().numpy()[::-1]
    xbc = (taps * window).sum(0) + core.convolution.bias.detach().numpy()
    xbc = xbc * sigmoid(xbc)
    values, b, c = np.split(xbc, [core.inner, core.inner + features])
    dt = np.log1p(np.exp(layer(core.decay.step, x) + core.decay.step_bias.detach().numpy()))
    a = -np.exp(core.decay.log_rate.detach().numpy())
    y = np.zeros((core.heads, size))
    for h in range(core.heads):
        value = values[h * size : (h + 1) * size]
        weights[h] = np.exp(dt[h] * a[h]) * weights[h] + np.outer(b, dt[h] * value)
        y[h] = c @ weights[h] + core.skip.detach().numpy()[h, 0] * value
    y = y.ravel() * z * sigmoid(z)
    y = y / np.sqrt((y**2).mean() + 1e-5) * core.norm.weight.detach().numpy()
    return layer(core.output, y), (weights, window[1:])


def ffm_step(core, x, state):
    m, c = core.memory_size, core.context_size
    written, passing, write_gate, read_gate = np.split(layer(core.input, x), np.cumsum([m, D, m]))
    rate, turn = core.rate.detach().numpy(), core.turn.detach().numpy()
    traces = np.zeros((m, c, 2))
    for j in range(m):
        for k in range(c):
            before = complex(state[j, k, 0], state[j, k, 1])
            after = before * np.exp(-abs(rate[j]) + 1j * turn[k])
            after = after + written[j] * sigmoid(write_gate[j])
            traces[j, k] = after.real, after.imag
    z = layer(core.mix, traces.ravel())
    z = (z - z.mean()) / np.sqrt(z.var() + 1e-5)
    gate = sigmoid(read_gate)
    return z * gate + passing * (1 - gate), traces


def mingru_step(core, x, state):
    gate, candidate = np.split(layer(core.input, x), 2)
    z = sigmoid(gate)
    positive = np.array([g + 0.5 if g >= 0 else sigmoid(g) for g in candidate])
    hidden = (1 - z) * state + z * positive
    wide = core.hidden_size > D
    return layer(core.output, hidden) if wide else hidden, hidden


def hadamard_step(core, x, state):
    weights, seen = state
    *projected, strength = layer(core.project, x)
    query, key, value, calibration = np.split(np.array(projected), 4)
    query, key = np.maximum(query, 0), np.maximum(key, 0)
    query, key = (address / max(address.sum(), 1e-6) for address in (query, key))
    seen = seen + 1
    theta = core.theta.detach().numpy()[core.sequence[int(seen) % CYCLE]]
    weights = weights * (1 + np.tanh(np.outer(calibration, theta)))
    weights = weights + sigmoid(strength) * np.outer(key, value)
    return layer(core.output, query @ weights), (weights, seen)


def agalite_step(core, x, state):
    projected = layer(core.project, x).reshape(core.heads, -1)
    widths = layer(core.widen, x).reshape(core.heads, -1)
    key_sums, *rest = (leaf.copy() for leaf in state)
    reads = []
    for h in range(core.heads):
        k, q, v, b, g = np.split(projected[h], 5)
        p1, p2, p3 = np.split(widths[h], 3)
        key = np.outer(np.maximum(p1, 0), np.maximum(k, 0)).ravel()
        query = np.outer(np.maximum(p2, 0), np.maximum(q, 0)).ravel()
        beta, gamma = sigmoid(b), np.outer(sigmoid(p3), sigmoid(g)).ravel()
        key_sums[h] = (1 - gamma) * key_sums[h] + gamma * key
        divisor = key_sums[h] @ query
        if core.exact:
            (weights,) = rest
            weights[h] = np.outer(1 - gamma, 1 - beta) * weights[h]
            weights[h] += np.outer(gamma * key, beta * v)
            reads.append(query @ weights[h] / (divisor + 1e-5))
            continue
        keys, values, seen = rest
        read = 0
        for i, omega in enumerate(np.linspace(-np.pi, np.pi, core.rank)):
            wave = np.cos(omega * (seen + 2))
            keys[i, h] = (1 - gamma) * keys[i, h] + wave * gamma * key
            values[i, h] = (1 - beta) * values[i, h] + wave * beta * v
            read = read + values[i, h] * (keys[i, h] @ query)
        reads.append(read / (2 * core.rank * divisor + 1e-5))
    if not core.exact:
        rest[2] = rest[2] + 1
    return layer(core.output, np.concatenate(reads)), (key_sums, *rest)


CORES = {
    "lru": (LRUConfig(), lru_step),
    "lru, wide": (LRUConfig(state_size=11, min_modulus=0.0, max_modulus=1.0), lru_step),
    "s5": (S5Config(state_size=6, blocks=2), s5_step),
    "s5, half a gate": (S5Config(gate="half"), s5_step),
    "s5, no gate": (S5Config(state_size=1, gate="none"), s5_step),
    "mamba2": (Mamba2Config(heads=2, state_size=3), mamba2_step),
    "mamba2, 1": (Mamba2Config(heads=1, expand=1, short_convolution=1), mamba2_step),
    "mingru": (MinGRUConfig(), mingru_step),
    "mingru, wide": (MinGRUConfig(expansion=3), mingru_step),
    "ffm": (FFMConfig(memory_size=3, context_size=2), ffm_step),
    "stable_hadamard": (StableHadamardConfig(memory_size=4), hadamard_step),
    "agalite": (AGaLiTeConfig(features=2, rank=3), agalite_step),
    "agalite, rank 1": (AGaLiTeConfig(features=1, rank=1, head_size=3), agalite_step),
    "agalite, exact": (AGaLiTeConfig(features=2, exact=True), agalite_step),
}
every_core = pytest.mark.parametrize("name", sorted(CORES))


def make(name):
    """A core in float64 with parameters that are nowhere special, and a state it has come to."""
    torch.manual_seed(0)
    core = CORES[name][0].build(D).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        state = map_tensors(torch.Tensor.double, core.initial_state(B))
        state = core.unroll(torch.randn(B, 3, D).double(), state, torch.zeros(B, 3).bool())[1]
    return core, state


def numpy_tree(state, b):
    if isinstance(state, torch.Tensor):
        return state[b].detach().numpy()
    return tuple(leaf[b].detach().numpy() for leaf in state)


@every_core
def test_a_core_is_its_equations(name):
    core, state = make(name)
    step = CORES[name][1]
    x, starts = torch.randn(B, 30, D).double(), torch.rand(B, 30) < 0.1
    starts[:, 1:4] = torch.tensor([[True, True, False], [False, False, False]])
    y, end = core.unroll(x, state, starts)
    fresh = map_tensors(torch.Tensor.double, core.initial_state(B))
    for b in range(B):
        memory = numpy_tree(state, b)
        for t in range(30):
            memory = numpy_tree(fresh, b) if starts[b, t] else memory
            expected, memory = step(core, x[b, t].numpy(), memory)
            np.testing.assert_allclose(y[b, t].detach().numpy(), expected, atol=1e-9)
        flat = memory if isinstance(memory, tuple) else (memory,)
        for actual, leaf in zip(tensors_in(end), flat, strict=True):
            np.testing.assert_allclose(actual[b].detach().numpy(), leaf, atol=1e-9)


@pytest.mark.parametrize(("low", "high"), [(0.9, 0.999), (0.0, 1.0), (0.5, 0.6)])
def test_eigenvalues_of_the_linear_unit_begin_in_the_ring_and_stay_in_the_disc(low, high):
    torch.manual_seed(0)
    core = LRUConfig(min_modulus=low, max_modulus=high, state_size=500, max_phase=1.0).build(D)
    eigenvalues = core.eigenvalues().detach()
    modulus = eigenvalues.abs()
    assert ((modulus > low - 1e-6) & (modulus < high + 1e-6)).all()
    # as many in the outer half of the area as in the inner
    assert 0.4 < (modulus.square() > (low**2 + high**2) / 2).float().mean() < 0.6
    assert ((eigenvalues.angle() > 0) & (eigenvalues.angle() < 1.0)).all()
    torch.testing.assert_close(core.gamma_log.exp().square(), 1 - modulus.square())
    with torch.no_grad():
        core.nu_log.normal_(0, 3)
    assert (core.eigenvalues().abs() <= 1).all()


def test_the_linear_unit_keeps_the_size_of_white_noise():
    torch.manual_seed(0)
    core = LRUConfig(state_size=64).build(64)
    _, state = core.unroll(
        torch.randn(8, 3000, 64), core.initial_state(8), torch.zeros(8, 3000).bool()
    )
    assert 0.8 < state.square().sum(dim=-1).mean() < 1.2


def test_traces_fade_at_the_published_rates():
    core = FFMConfig().build(D)
    kept = core.decays().detach().abs()[:, 0]
    assert kept.argmax() == 31
    assert math.isclose(kept.max() ** 1024, 0.01, rel_tol=1e-3)
    assert math.isclose(kept.min(), 0.5 * math.exp(0.02), rel_tol=1e-5)
    turns = 2 * math.pi / core.turn.detach()
    torch.testing.assert_close(turns, torch.tensor([1.0, 342.0, 683.0, 1024.0]))


def test_fading_memory_is_stable_in_float32_over_ten_thousand_times():
    torch.manual_seed(0)
    core = FFMConfig().build(D)
    x, starts = torch.randn(1, 10_000, D), torch.zeros(1, 10_000, dtype=torch.bool)
    with torch.no_grad():
        y, end = core.unroll(x, core.initial_state(1), starts)
        exact = core.double()
        y_exact, end_exact = exact.unroll(x.double(), core.initial_state(1), starts)
    torch.testing.assert_close(y, y_exact.float(), atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(end, end_exact.float(), atol=1e-2, rtol=1e-2)


def test_factors_of_hadamard_memory_follow_the_time_and_their_products_stay_near_one():
    torch.manual_seed(0)
    core = StableHadamardConfig().build(128)
    times = torch.arange(1.0, 101.0).expand(256, 100)
    calibration = core.project(torch.randn(256, 100, 128))[..., 72:96]
    factors = core.factors(calibration, times).double()
    products = factors.cumprod(dim=1)
    assert 0.9 < products[:, -1].mean() < 1.1
    # an input that stays the same: one row for all times would add up its logarithms
    one_input = core.factors(calibration[:1, :1].expand(1, 100, -1), times[:1]).double()
    assert one_input.std(dim=1).min() > 0
    assert one_input.log().sum(dim=1).abs().max() < 10
    always_first = one_input[:, :1].log().abs() * 100
    assert always_first.max() > 2 * one_input.log().sum(dim=1).abs().max()
    assert core.sequence.unique().numel() > 120


def test_rows_of_hadamard_memory_begin_again_with_the_episode_and_after_a_cycle():
    torch.manual_seed(0)
    core = StableHadamardConfig(memory_size=5).build(D)
    calibration = torch.randn(1, 1, 5).expand(1, 4, 5)
    times = torch.tensor([[1.0, 2.0, 1.0 + CYCLE, 2.0 + CYCLE]])
    factors = core.factors(calibration, times)
    torch.testing.assert_close(factors[:, :2], factors[:, 2:])
    assert not torch.equal(factors[:, 0], factors[:, 1])
    assert "sequence" in core.state_dict()
    again = StableHadamardConfig(memory_size=5).build(D)
    again.load_state_dict(core.state_dict())
    state = State(torch.randn(1, 5, 5), torch.tensor([700.0]))
    x, starts = torch.randn(1, 500, D), torch.zeros(1, 500, dtype=torch.bool)
    torch.testing.assert_close(again.unroll(x, state, starts), core.unroll(x, state, starts))


def test_hadamard_memory_stays_in_float32_without_a_bound():
    torch.manual_seed(0)
    core = StableHadamardConfig().build(128)
    x = F.layer_norm(torch.randn(4, 4096, 128), (128,))
    _, end = core.unroll(x, core.initial_state(4), torch.zeros(4, 4096).bool())
    assert end.weights.abs().max() < 1e6


def test_waves_of_the_low_rank_form_single_out_the_same_time():
    core = AGaLiTeConfig(rank=101, heads=1, head_size=1, features=1).build(D)
    frequencies = torch.linspace(-math.pi, math.pi, 101, dtype=torch.double)
    torch.testing.assert_close(core.frequencies.double(), frequencies, atol=1e-6, rtol=0)
    # up to half the rank, from where on the waves repeat
    times = torch.arange(2, 50, dtype=torch.double)
    waves = (times.unsqueeze(-1) * frequencies).cos()
    ends = torch.outer((math.pi * times).cos(), (math.pi * times).cos())
    torch.testing.assert_close(waves @ waves.T, 50 * torch.eye(48).double() + ends)


def test_the_low_rank_form_approaches_a_quarter_of_the_exact_one():
    torch.manual_seed(0)
    exact = AGaLiTeConfig(features=2, exact=True).build(D).double()
    with torch.no_grad():
        # no divisor is small, so that the two smallest divisors do not differ
        exact.widen.bias.fill_(3.0)
        exact.output.bias.zero_()
    x, starts = torch.randn(B, 20, D).double(), torch.zeros(B, 20, dtype=torch.bool)
    expected, _ = exact.unroll(x, map_tensors(torch.Tensor.double, exact.initial_state(B)), starts)
    errors = []
    for rank in (2, 7, 65, 513, 4097):
        core = AGaLiTeConfig(features=2, rank=rank).build(D).double()
        core.load_state_dict(
            {k: v for k, v in exact.state_dict().items() if k != "frequencies"}, strict=False
        )
        state = map_tensors(torch.Tensor.double, core.initial_state(B))
        y, _ = core.unroll(x, state, starts)
        errors.append(((4 * y - expected).norm() / expected.norm()).item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3


def test_the_exact_form_reads_averages_of_values():
    core, _ = make("agalite, exact")
    state = core.initial_state(1)
    assert isinstance(state, ExactState)
    x, starts = torch.randn(1, 40, D).double(), torch.zeros(1, 40, dtype=torch.bool)
    with torch.no_grad():
        core.widen.bias.fill_(3.0)
        projected = core.project(x).unflatten(-1, (4, 5, 2))
        core.output.weight.copy_(torch.eye(D))
        core.output.bias.zero_()
        y, _ = core.unroll(x, state, starts)
    largest = projected[..., 2, :].abs().amax(dim=(0, 1)).flatten()
    assert (y.abs().amax(dim=(0, 1)) <= largest).all()


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (LRUConfig, {"min_modulus": 0.999}, "min_modulus is 0.999; use less than max_modulus"),
        (LRUConfig, {"max_modulus": 1.5}, "core.max_modulus is 1.5; it should be less than"),
        (FFMConfig, {"memory": 3}, "core.memory: no such key; did you mean 'memory_size'?"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_in_one_line(config, values, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        validate(config, values, "core")
    assert "\n" not in str(error.value)


def test_sizes_that_do_not_fit_are_refused_when_the_core_is_built():
    with pytest.raises(ConfigError, match="agalite: input_size 30 does not divide into 4 heads"):
        AGaLiTeConfig().build(30)
    assert AGaLiTeConfig(head_size=8).build(30).output_size == 30
