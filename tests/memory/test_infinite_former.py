"""The infinite-former against its equations, one time after another, and what its state holds."""

import math

import numpy as np
import pytest
import torch

from fwrl.config import ConfigError, validate
from fwrl.core import state_size
from fwrl.cores.infinite_former import InfiniteFormerConfig
from fwrl.cores.window_attention import WindowAttentionConfig
from fwrl.state import tensors_in

SMALL = {"heads": 2, "window": 3, "segment": 2, "basis_functions": 8, "samples": 5}
KINDS = {
    "plain": {},
    "sticky": {"sticky": True, "bins": 6},
    "gated": {"input_gate": True, "widths": (0.1, 0.3), "ridge": 0.1, "contraction": 0.5},
}
B, D = 3, 8


def build(**settings):
    config = InfiniteFormerConfig(**(SMALL | settings))
    torch.manual_seed(0)
    core = config.build(D).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return config, core


def inputs(times, share=0.0):
    generator = torch.Generator().manual_seed(times)
    x = torch.randn(B, times, D, dtype=torch.double, generator=generator)
    return x, torch.rand(B, times, generator=generator) < share


def numbers(tensor):
    return tensor.detach().numpy()


def ridge_regression(density, at, length, x, ridge, kept):
    """Coefficients of vectors at positions, with zeros beside [0, 1]."""
    spread = np.arange(-length, 2 * length) / length + 0.5 / length
    spread = spread[(spread > -0.5) & (spread < 1.5) & ((spread < 0) | (spread > 1))]
    f = density(np.concatenate([at, spread])).T
    padded = np.concatenate([x, np.zeros((len(spread), x.shape[1]))])
    return np.linalg.solve(f @ f.T + ridge * np.eye(kept), f @ padded)


class ByHand:
    """The long-term memory of one stream, equation by equation, one time after another."""

    def __init__(self, config, core):
        self.config, self.core = config, core
        half = config.basis_functions // 2
        low, high = config.widths or (max(0.01, 1 / (half - 1)), max(0.05, 2 / (half - 1)))
        self.means = np.tile(np.linspace(0, 1, half), 2)
        self.variances = np.repeat([low**2, high**2], half)
        self.forget()

    def forget(self):
        self.window, self.coefficients = [], None
        self.histogram = np.zeros(self.config.bins)

    def density(self, t, more=0.0):
        total = self.variances + more
        return np.exp(-((np.asarray(t)[..., None] - self.means) ** 2) / (2 * total)) / np.sqrt(
            2 * np.pi * total
        )

    def advance(self, x):
        """The read of long-term memory, and the inputs that short-term attention sees."""
        self.window.append(x)
        seen, found = np.stack(self.window), np.zeros(D)
        if self.coefficients is not None:
            found = self.read(x)
        if len(self.window) == self.config.window + self.config.segment:
            self.fold(np.stack(self.window[: self.config.segment]))
            self.window = self.window[self.config.segment :]
        return found, seen

    def read(self, x):
        core, heads = self.core, self.config.heads
        query = (numbers(core.attention.query.weight) @ x).reshape(heads, -1)
        keys = (self.coefficients @ numbers(core.key.weight).T).reshape(-1, heads, D // heads)
        values = (self.coefficients @ numbers(core.value.weight).T).reshape(-1, heads, D // heads)
        found = []
        for head in range(heads):
            scores = keys[:, head] @ query[head] / np.sqrt(D // heads)
            for_mean, for_variance = numbers(core.density.weight) @ scores
            mean = 1 / (1 + np.exp(-for_mean))
            variance = max(np.log1p(np.exp(for_variance)), 1e-6)
            found.append(self.density(mean, variance) @ values[:, head])
            edges = np.linspace(0, 1, self.config.bins + 1)
            scaled = (edges - mean) / np.sqrt(2 * variance)
            self.histogram += np.diff([0.5 * (1 + math.erf(edge)) for edge in scaled])
        return numbers(core.output.weight) @ np.concatenate(found)

    def fold(self, segment):
        config, n = self.config, self.config.segment
        if self.core.gate is not None:
            padded = np.pad(segment, ((1, 1), (0, 0)))
            weight, bias = numbers(self.core.gate.weight), numbers(self.core.gate.bias)
            mixed = [sum(weight[:, :, j] @ padded[i + j] for j in range(3)) for i in range(n)]
            segment = segment / (1 + np.exp(-(np.stack(mixed) + bias)))
        count = config.basis_functions
        if self.coefficients is None:
            at = (np.arange(n) + 0.5) / n
            self.coefficients = ridge_regression(self.density, at, n, segment, config.ridge, count)
            return
        index = np.arange(1, config.samples + 1)
        old = index / config.samples
        if config.sticky:
            mass = self.histogram / self.histogram.sum() + 0.01 / config.bins
            reached = np.concatenate([[0], (mass / mass.sum()).cumsum()])
            edges = np.arange(config.bins + 1) / config.bins
            old = np.interp((index - 0.5) / config.samples, reached, edges)
            self.histogram = np.zeros(config.bins)
        vectors = np.concatenate([self.density(old) @ self.coefficients, segment])
        tau = config.contraction
        at = [tau * index / config.samples, tau + (1 - tau) * np.arange(1, n + 1) / n]
        self.coefficients = ridge_regression(
            self.density, np.concatenate(at), n + config.samples, vectors, config.ridge, count
        )


@pytest.mark.parametrize("kind", KINDS)
def test_it_follows_the_equations_one_time_after_another(kind):
    config, core = build(**KINDS[kind])
    x, starts = inputs(40, share=0.06)
    y, state = core.unroll(x, core.initial_state(B), starts)
    attention = core.attention
    for row in range(B):
        stream, folds = ByHand(config, core), 0
        for t in range(40):
            if starts[row, t]:
                stream.forget()
            long, seen = stream.advance(numbers(x[row, t]))
            window = torch.tensor(seen).unsqueeze(0)
            count = torch.full((1, 1), float(len(seen)))
            query = attention.queries(x[row, t].view(1, 1, D))
            short = attention.read(query, *attention.keys_values(window), count)
            expected = short[0, 0] + torch.tensor(long)
            torch.testing.assert_close(y[row, t], expected, atol=2e-5, rtol=0)
            folds += stream.coefficients is not None
        assert folds
        held = len(stream.window)
        assert state.held[row] == held
        torch.testing.assert_close(numbers(state.inputs[row, -held:]), np.stack(stream.window))
        torch.testing.assert_close(
            state.long.coefficients[row],
            torch.tensor(stream.coefficients),
            atol=2e-5,
            rtol=1e-4,
        )


def test_before_anything_was_folded_it_is_attention_over_the_window():
    config, core = build()
    plain = WindowAttentionConfig(heads=2, window=config.window + config.segment).build(D).double()
    plain.attention.load_state_dict(core.attention.state_dict())
    x, starts = inputs(6)
    y, state = core.unroll(x, core.initial_state(B), starts)
    expected, _ = plain.unroll(x, plain.initial_state(B), starts)
    torch.testing.assert_close(y[:, :5], expected[:, :5], atol=1e-12, rtol=0)
    assert (y[:, 5] - expected[:, 5]).abs().max() > 1e-3
    assert state.long.holds.all()
    _, state = core.unroll(x[:, :4], core.initial_state(B), starts[:, :4])
    assert not any(leaf.any() for leaf in tensors_in(state.long))


def test_a_memory_that_holds_nothing_is_not_read_whatever_its_numbers_are():
    _, core = build(sticky=True, bins=6)
    x, starts = inputs(8)
    empty = core.initial_state(B)
    junk = empty._replace(long=empty.long._replace(coefficients=torch.full((B, 8, D), math.nan)))
    expected = core.unroll(x, empty, starts)
    found = core.unroll(x, junk, starts)
    assert tensors_in(expected)[-1].any()
    torch.testing.assert_close(tensors_in(found), tensors_in(expected))


def test_the_state_does_not_grow_with_what_it_takes_in():
    _, core = build(sticky=True, bins=6)
    shapes = [leaf.shape for leaf in tensors_in(core.initial_state(B))]
    for times in (3, 30, 150):
        x, starts = inputs(times)
        y, state = core.unroll(x, core.initial_state(B), starts)
        assert [leaf.shape for leaf in tensors_in(state)] == shapes
        assert y.isfinite().all()
    assert state_size(core) == 4 * D + 1 + 8 * D + 1 + 6


def test_what_left_the_window_long_ago_still_matters():
    _, core = build()
    x, starts = inputs(24)
    x.requires_grad_()
    y, _ = core.unroll(x, core.initial_state(B), starts)
    (gradient,) = torch.autograd.grad(y[:, -1].square().sum(), x)
    assert (gradient.abs().amax(dim=(0, 2)) > 0).all()


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(
        ConfigError, match="basis_functions is 9; half are narrow, half wide: use 10"
    ):
        validate(InfiniteFormerConfig, {"basis_functions": 9}, "core")
    with pytest.raises(ConfigError, match="contraction is 1"):
        validate(InfiniteFormerConfig, {"contraction": 1}, "core")
    with pytest.raises(ConfigError, match="does not divide into 4 heads"):
        InfiniteFormerConfig().build(30)
