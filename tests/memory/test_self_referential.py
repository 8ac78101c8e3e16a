"""The self-referential weight matrix: its equations, one time and one head after another."""

import numpy as np
import pytest
import torch

from fwrl.config import ConfigError
from fwrl.cores.self_referential import SelfReferentialConfig

B, T, D, H = 2, 6, 8, 2
K = D // H


def build():
    torch.manual_seed(0)
    core = SelfReferentialConfig(heads=H).build(D).double()
    with torch.no_grad():
        core.start.mul_(3.0)
    return core


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_step(matrix, x):
    """One head; the rows of the matrix make y, q, k and beta, as in the paper."""
    y, q, k, beta = np.split(matrix @ softmax(x), [K, 2 * K, 3 * K])
    target, stored = matrix @ softmax(q), matrix @ softmax(k)
    rate = np.concatenate([np.full(K, sigmoid(beta[block])) for block in range(3)])
    rate = np.concatenate([rate, np.full(4, sigmoid(beta[3]))])
    return y, matrix + np.outer(rate * (target - stored), softmax(k))


def test_the_core_equals_its_equations_one_time_after_another():
    core = build()
    x = torch.randn(B, T, D, dtype=torch.double)
    moved = 0.5 * torch.randn(B, H, K, 3 * K + 4, dtype=torch.double)
    starts = torch.zeros(B, T, dtype=torch.bool)
    starts[1, 2] = True
    y, end = (result.detach().numpy() for result in core.unroll(x, moved, starts))
    begin, out = core.start.detach().numpy(), core.output.weight.detach().numpy()
    for b in range(B):
        matrices = [(begin[h] + moved[b, h].numpy()).T for h in range(H)]
        for t in range(T):
            if starts[b, t]:
                matrices = [begin[h].T for h in range(H)]
            parts = np.split(x[b, t].numpy(), H)
            results = [numpy_step(m, part) for m, part in zip(matrices, parts, strict=True)]
            heads, matrices = zip(*results, strict=True)
            np.testing.assert_allclose(y[b, t], out @ np.concatenate(heads), atol=1e-12)
        expected = [m.T - begin[h] for h, m in enumerate(matrices)]
        np.testing.assert_allclose(end[b], expected, atol=1e-12)


def test_the_first_output_of_an_episode_is_that_of_the_learned_matrix():
    core = build()
    x = torch.randn(1, D, dtype=torch.double)
    nothing = core.initial_state(1).double()
    y, moved = core.step(x, nothing)
    address = x.view(H, 1, K).softmax(dim=-1)
    expected = core.output((address @ core.start)[..., :K].flatten())
    torch.testing.assert_close(y[0], expected)
    assert not nothing.any()
    assert moved.any()


def test_the_learned_matrix_has_a_gradient_also_where_the_state_is_cut():
    core = build()
    x = torch.randn(B, D, dtype=torch.double)
    _, state = core.step(x, core.initial_state(B).double())
    y, _ = core.step(x, state.detach())
    (gradient,) = torch.autograd.grad(y.square().sum(), core.start)
    # an output comes from the first columns alone
    assert gradient[..., :K].all()
    assert not gradient[..., K:].any()


def test_the_matrix_begins_as_published():
    torch.manual_seed(0)
    core = SelfReferentialConfig(heads=8).build(8 * 64)
    begin = core.start.detach()
    assert begin.shape == (8, 64, 3 * 64 + 4)
    made, strengths = begin[..., : 3 * 64], begin[..., 3 * 64 :]
    assert abs(made.mean()) < 0.005
    assert abs(strengths.mean() + 1) < 0.02
    for block in (made, strengths):
        assert abs(block.std() - 64**-0.5) < 0.005


def test_a_size_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="input_size 30 does not divide into 8 heads; use a mult"):
        SelfReferentialConfig().build(30)
