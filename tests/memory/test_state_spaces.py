"""How the rates of state-space models begin, and what they stay within."""

import math
import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fwrl.config import ConfigError, validate
from fwrl.cores.mamba2 import Mamba2Config
from fwrl.cores.s5 import S5Config, hippo_normal

B, D = 2, 8


def hippo_n(size):
    """HiPPO-LegS plus half the outer product of its roots."""
    n = np.arange(size)
    root = np.sqrt(2 * n + 1)
    return np.diag(n) - np.tril(np.outer(root, root)) + np.outer(root, root) / 2


@pytest.mark.parametrize("half", [1, 3, 8])
def test_rates_begin_as_half_of_the_eigenvalues_of_the_normal_hippo_matrix(half):
    rates, vectors = (each.numpy() for each in hippo_normal(half, torch.device("cpu")))
    np.testing.assert_allclose(hippo_n(2 * half) @ vectors, rates * vectors, atol=1e-9)
    np.testing.assert_allclose(vectors.conj().T @ vectors, np.eye(half), atol=1e-12)
    whole = np.sort_complex(np.linalg.eigvals(hippo_n(2 * half)).round(9))
    both = np.concatenate([rates, rates.conj()])
    np.testing.assert_allclose(whole, np.sort_complex(both.round(9)), atol=1e-6)
    core = S5Config(state_size=2 * half, blocks=2).build(D)
    first, second = torch.view_as_complex(core.rate.detach()).chunk(2)
    torch.testing.assert_close(first, second, atol=0, rtol=0)
    np.testing.assert_allclose(first.numpy(), rates, rtol=1e-6)


def test_a_diagonal_state_stands_for_the_real_system_of_the_hippo_matrix():
    size, step, times = 8, 0.07, 20
    core = S5Config(state_size=size // 2, gate="none").build(D).double()
    generator = np.random.default_rng(0)
    a, b, c = hippo_n(size), generator.normal(size=(size, D)), generator.normal(size=(D, size))
    rates, vectors = (each.numpy() for each in hippo_normal(size // 2, torch.device("cpu")))
    into, out = vectors.conj().T @ b, c @ vectors
    with torch.no_grad():
        core.rate.copy_(torch.view_as_real(torch.from_numpy(rates)))
        core.time_step_log.fill_(math.log(step))
        core.input.weight[0::2], core.input.weight[1::2] = map(
            torch.from_numpy, (into.real, into.imag)
        )
        core.output.weight[:, 0::2] = torch.from_numpy(out.real)
        core.output.weight[:, 1::2] = -torch.from_numpy(out.imag)
        core.skip.zero_()
    x = torch.randn(1, times, D).double()
    state = core.initial_state(1).double()
    y, _ = core.unroll(x, state, torch.zeros(1, times, dtype=torch.bool))
    turned = torch.linalg.matrix_exp(torch.from_numpy(step * a)).numpy()
    held = np.linalg.solve(a, turned - np.eye(size)) @ b
    h = np.zeros(size)
    for t in range(times):
        h = turned @ h + held @ x[0, t].numpy()
        expected = F.gelu(torch.from_numpy(c @ h), approximate="tanh")
        torch.testing.assert_close(y[0, t].detach(), expected, atol=1e-9, rtol=0)


def test_input_and_output_begin_as_those_of_a_real_state():
    torch.manual_seed(0)
    core = S5Config(state_size=128, blocks=4).build(64)
    # unit vectors halve the variance between a number and its conjugate
    assert math.isclose(core.input.weight.detach().square().sum(), 128, rel_tol=0.1)
    assert math.isclose(core.output.weight.detach().square().sum(), 64, rel_tol=0.1)
    step = core.time_step_log.exp()
    assert step.min() > 0.001
    assert step.max() < 0.1
    assert (step < 0.01).float().mean() == pytest.approx(0.5, abs=0.15)


def test_no_rate_lets_a_state_grow():
    core = S5Config(state_size=20).build(D)
    with torch.no_grad():
        core.rate.normal_(0, 3)
        core.time_step_log.normal_(0, 2)
    factor, _ = core.discretised()
    assert (factor.abs() <= 1).all()


def test_decays_of_mamba_begin_between_the_published_ones():
    torch.manual_seed(0)
    decay = Mamba2Config(heads=64, expand=1).build(64).decay
    rate, step = decay.log_rate.exp(), F.softplus(decay.step_bias)
    assert 1 <= rate.min() < 2
    assert 14 < rate.max() <= 16
    assert 0.001 <= step.min() < 0.003
    assert 0.03 < step.max() <= 0.1


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (S5Config, {"min_time_step": 0.1}, "min_time_step is 0.1; use less than max_time_step"),
        (S5Config, {"gate": "ful"}, "did you mean 'full'?"),
        (Mamba2Config, {"short_convolution": -1}, "greater than or equal to 0"),
    ],
)
def test_settings_of_state_spaces_that_cannot_be_are_refused(config, values, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        validate(config, values, "core")
    assert "\n" not in str(error.value)


def test_sizes_of_state_spaces_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="s5: state_size 4 does not divide into 3 blocks"):
        S5Config(blocks=3).build(D)
    with pytest.raises(ConfigError, match="mamba2: input_size 16 does not divide into 3 heads"):
        Mamba2Config(heads=3).build(D)
    assert S5Config().build(1).state_size == 1
