"""The mesa layer: every read is a ridge regression on the past of its episode."""

from operator import itemgetter

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fwrl.config import ConfigError
from fwrl.cores.mesa import MIN_RIDGE, MesaConfig, conjugate_gradients, mesa_scan, mesa_step, solve
from fwrl.state import map_tensors
from fwrl.update_rules import ScanInputs, Write

B, T, H, K, V = 2, 40, 2, 5, 3


def doubles(numbers):
    return torch.tensor(numbers, dtype=torch.double)


def random(*shape):
    return torch.randn(*shape, dtype=torch.double)


def problem():
    """Leaves: query, key, value, beta, decay, ridge, state; then starts."""
    torch.manual_seed(0)
    leaves = [
        random(B, T, H, K),
        F.normalize(random(B, T, H, K), dim=-1),
        random(B, T, H, V),
        random(B, T, H, 1).sigmoid(),
        0.8 + 0.2 * random(B, T, H, 1).sigmoid(),
        0.3 + random(H, K).square(),
    ]
    # what three writes have left behind
    key = random(B, H, 3, K)
    leaves.append(key.mT @ torch.cat([key, random(B, H, 3, V)], dim=-1))
    starts = torch.zeros(B, T, dtype=torch.bool)
    starts[0, 7] = starts[0, 33] = starts[1, 0] = True
    return [leaf.requires_grad_() for leaf in leaves], starts


def regression(leaves, starts):
    """Each read on its own: the whole past of its episode, and a direct solution."""
    query, key, value, beta, decay, ridge, state = leaves
    reads, end = [], []
    for b in range(B):
        for h in range(H):
            for t in range(T):
                first = max([s for s in range(t + 1) if starts[b, s]], default=None)
                past = torch.arange(first or 0, t + 1)
                kept = torch.stack([decay[b, i + 1 : t + 1, h, 0].prod() for i in past])
                weight = (kept * beta[b, past, h, 0]).unsqueeze(-1)
                keys, values = key[b, past, h], value[b, past, h]
                gram, pairs = keys.T @ (weight * keys), keys.T @ (weight * values)
                if first is None:
                    before = decay[b, : t + 1, h, 0].prod() * state[b, h]
                    gram, pairs = gram + before[:, :K], pairs + before[:, K:]
                # symmetric, but the gradient of the state can tell which way it is read
                solved = torch.linalg.solve(gram.T + torch.diag(ridge[h]), query[b, t, h])
                reads.append(solved @ pairs)
            end.append(torch.cat([gram, pairs], dim=-1))
    values = torch.stack(reads).view(B, H, T, V).transpose(1, 2)
    return values, torch.stack(end).view(B, H, K, K + V)


def by_conjugate_gradients(leaves, starts):
    query, *write, ridge, state = leaves
    return mesa_scan(ScanInputs(state, query, Write(*write), starts), ridge, 2 * K)


def with_gradients(read, leaves, starts):
    results = read(leaves, starts)
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (x * torch.randn(x.shape, dtype=x.dtype, generator=generator)).sum() for x in results
    )
    return [*results, *torch.autograd.grad(loss, leaves)]


def test_a_read_is_ridge_regression_on_the_past_also_in_its_gradients():
    leaves, starts = problem()
    expected = with_gradients(regression, leaves, starts)
    actual = with_gradients(by_conjugate_gradients, leaves, starts)
    torch.testing.assert_close(actual, expected, atol=1e-9, rtol=1e-8)


def test_a_read_is_the_worked_example():
    keys, values = doubles([(0.6, 0.4), (0.6, 0.4), (0.2, 0.8)]), doubles([(1, 0), (0, 1), (1, 1)])
    one = torch.ones(1, 3, 1, 1, dtype=torch.double)
    write = Write(keys[None, :, None], values[None, :, None], one, one)
    query, ridge = doubles([0.5, 0.5]).expand(1, 3, 1, 2), doubles([[1, 1]])
    state, starts = torch.zeros(1, 1, 2, 4, dtype=torch.double), torch.zeros(1, 3).bool()
    read, end = mesa_scan(ScanInputs(state, query, write, starts), ridge, 2)
    torch.testing.assert_close(read[0, -1, 0], doubles([15 / 38, 15 / 38]), atol=1e-8, rtol=0)
    for t in range(3):
        now = map_tensors(itemgetter((slice(None), t)), write)
        read_once, state = mesa_step(state, query[:, t], now, ridge, 2)
        torch.testing.assert_close(read_once, read[:, t], atol=1e-12, rtol=0)
    torch.testing.assert_close(state, end, atol=1e-12, rtol=0)


def systems(times, size, ridge):
    """The sums of products of random unit keys, plus the ridge, and random unit targets."""
    torch.manual_seed(0)
    key, target = (F.normalize(random(times, size), dim=-1) for _ in range(2))
    gram = (key.unsqueeze(-1) * key.unsqueeze(-2)).cumsum(dim=0)
    return gram + ridge * torch.eye(size, dtype=torch.double), target


def relative_error(matrices, target, iterations):
    def product(x):
        return (matrices @ x.unsqueeze(-1)).squeeze(-1)

    found = conjugate_gradients(product, target, iterations)
    exact = torch.linalg.solve(matrices, target)
    return ((found - exact).norm(dim=-1) / exact.norm(dim=-1)).max()


def test_the_default_solves_to_a_ten_thousandth():
    torch.testing.assert_close(MesaConfig().build(128).ridge(), torch.ones(4, 32))
    assert relative_error(*systems(256, 32, 1.0), MesaConfig().iterations) < 1e-4
    # with less the promise is broken
    assert relative_error(*systems(256, 32, 1.0), MesaConfig().iterations - 3) > 1e-4
    assert relative_error(*systems(256, 32, MIN_RIDGE), 18) < 1e-4


def test_as_many_iterations_as_features_solve_exactly_and_more_change_nothing():
    # few features: in many the rounding keeps the directions from being quite conjugate
    matrices, target = systems(50, 6, 1.0)
    assert relative_error(matrices, target, 5) > 1e-9
    assert relative_error(matrices, target, 6) < 1e-12
    assert relative_error(matrices, target, 500) < 1e-12


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-10])
def test_what_is_solved_already_stays_finite(scale):
    target = torch.full((1, 3), scale, requires_grad=True)
    ridge = torch.full((1, 3), 2.0, requires_grad=True)
    solved = solve(lambda x: ridge * x, target, 40)
    gradients = torch.autograd.grad(solved.sum(), (target, ridge))
    assert all(x.isfinite().all() for x in (solved, *gradients))
    # the smallest is too short to be squared, and counts as solved by zero
    torch.testing.assert_close(solved, target / 2, atol=1e-20, rtol=1e-6)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.log1p(np.exp(x))


def unit_silu(x):
    x = x * sigmoid(x)
    return x / np.sqrt((x**2).sum() + 1e-6)


def test_the_core_equals_its_equations_one_time_after_another():
    torch.manual_seed(0)
    heads, size = 2, 3
    width, times = heads * size, 6
    core = MesaConfig(heads=heads).build(width).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = 2 * random(1, times, width)
    state = core.initial_state(1).double()
    y, end = core.unroll(x, state, torch.zeros(1, times, dtype=torch.bool))
    p = {name: parameter.detach().numpy() for name, parameter in core.named_parameters()}
    gram, pairs = np.zeros((2, heads, size, size))
    for t, now in enumerate(x[0].numpy()):
        query, key, value = (p["project.weight"] @ now).reshape(3, heads, size)
        beta = sigmoid(p["beta.weight"] @ now + p["beta.bias"])
        step = softplus(p["decay.step.weight"] @ now + p["decay.step_bias"])
        decay = np.exp(-np.exp(p["decay.log_rate"]) * step)
        reads = []
        for h in range(heads):
            k, q = unit_silu(key[h]), unit_silu(query[h])
            gram[h] = decay[h] * gram[h] + beta[h] * np.outer(k, k)
            pairs[h] = decay[h] * pairs[h] + beta[h] * np.outer(value[h], k)
            ridge = np.diag(softplus(p["raw_ridge"][h]) + 0.25)
            reads.append(pairs[h] @ np.linalg.inv(gram[h] + ridge) @ q)
        expected = p["output.weight"] @ np.concatenate(reads)
        np.testing.assert_allclose(y[0, t].detach(), expected, atol=1e-10)
    expected = np.concatenate([gram, pairs.transpose(0, 2, 1)], axis=-1)
    np.testing.assert_allclose(end[0].detach(), expected, atol=1e-10)


def test_a_full_memory_of_orthogonal_keys_gives_each_value_back_shrunk_by_the_ridge():
    key = torch.eye(4, dtype=torch.double).view(1, 4, 1, 4)
    value = random(1, 4, 1, 3)
    one = torch.ones(1, 4, 1, 1, dtype=torch.double)
    ridge = doubles([[0.5, 1, 2, 4]])
    state = torch.zeros(1, 1, 4, 7, dtype=torch.double)
    starts = torch.zeros(1, 4, dtype=torch.bool)
    read, _ = mesa_scan(ScanInputs(state, key, Write(key, value, one, one), starts), ridge, 4)
    torch.testing.assert_close(read, value / (1 + ridge[0].view(1, 4, 1, 1)))


def test_a_size_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="mesa: input_size 30 does not divide into 4 heads"):
        MesaConfig().build(30)
