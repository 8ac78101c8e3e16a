"""The chunked scan with a decay per row and column is the loop over time, in all that it gives."""

import pytest
import torch

from fwrl.kernels.chunked import outer_decay
from fwrl.kernels.chunked.outer_decay import Inputs, scan, scan_by_steps

B, H, K, V = 2, 2, 5, 3
LENGTHS = [1, 2, 63, 64, 65, 257]
DENSITIES = [0, 0.02, 0.3, 1]


def problem(times, density, dtype=torch.double):
    """Leaves: state, query, key, value, key decay, value decay; then starts."""
    leaves = [torch.randn(B, H, K, V)]
    leaves += [torch.randn(B, times, H, size) for size in (K, K, V)]
    leaves += [torch.rand(B, times, H, size) for size in (K, V)]
    leaves = [leaf.to(dtype).requires_grad_() for leaf in leaves]
    return leaves, torch.rand(B, times) < density


def everything(scan, leaves, starts):
    state, *given = leaves
    results = scan(state, Inputs(*given), starts)
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (x * torch.randn(x.shape, generator=generator, dtype=torch.double)).sum() for x in results
    )
    return [*results, *torch.autograd.grad(loss, leaves)]


def assert_equal(leaves, starts, tolerance):
    expected, actual = (everything(s, leaves, starts) for s in (scan_by_steps, scan))
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def test_by_steps_is_the_equation():
    torch.manual_seed(0)
    (state, *given), starts = problem(6, 0.3)
    inputs = Inputs(*given)
    values, end = scan_by_steps(state, inputs, starts)
    for b in range(B):
        for h in range(H):
            weights = state[b, h]
            for t in range(6):
                weights = torch.zeros(K, V).double() if starts[b, t] else weights
                rows, columns = inputs.key_decay[b, t, h], inputs.value_decay[b, t, h]
                write = torch.outer(inputs.key[b, t, h], inputs.value[b, t, h])
                weights = torch.outer(rows, columns) * weights + write
                torch.testing.assert_close(values[b, t, h], inputs.query[b, t, h] @ weights)
            torch.testing.assert_close(end[b, h], weights)


@pytest.mark.unchecked
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("times", LENGTHS)
def test_chunks_equal_steps_in_float64(times, density):
    torch.manual_seed(times)
    assert_equal(*problem(times, density), 1e-10)


@pytest.mark.parametrize("size", [1, 3, 32, 200])
def test_any_chunk_size_gives_the_same(size, monkeypatch):
    monkeypatch.setattr(outer_decay, "CHUNK_SIZE", size)
    torch.manual_seed(0)
    assert_equal(*problem(50, 0.05), 1e-10)


@pytest.mark.parametrize("density", DENSITIES)
def test_chunks_equal_steps_in_float32(density):
    torch.manual_seed(0)
    leaves, starts = problem(100, density, torch.float32)
    with torch.no_grad():
        # the gradient of a decay near zero is a small difference of sums, divided by the decay
        for decay in leaves[-2:]:
            decay.clamp_(min=0.1)
    assert_equal(leaves, starts, 2e-4)


def test_a_total_loss_of_memory_is_exact_enough():
    torch.manual_seed(0)
    leaves, starts = problem(40, 0.1, torch.float32)
    leaves = [leaf.detach() for leaf in leaves]
    for decay in leaves[4:]:
        decay[:, 3::5] = 0.0
        decay[:, 4::5] = 1e-6
        decay[:, 1::5] = 1.0
    state, *given = leaves
    expected = scan_by_steps(state, Inputs(*given), starts)
    actual = scan(state, Inputs(*given), starts)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", range(6))
def test_a_start_forgets_even_an_undefined_past(which, poison):
    torch.manual_seed(0)
    leaves, starts = problem(30, 0)
    starts[:, 13] = True
    state, *given = leaves
    clean, clean_end = scan(state, Inputs(*given), starts)
    to_clean = torch.autograd.grad(clean[:, 13:].square().sum(), given)
    with torch.no_grad():
        poisoned = state if which == 0 else given[which - 1][:, :13]
        poisoned.fill_(poison)
    values, end = scan(state, Inputs(*given), starts)
    gradients = torch.autograd.grad(values[:, 13:].square().sum(), given)
    assert not values[:, :13].isfinite().all()
    torch.testing.assert_close(values[:, 13:], clean[:, 13:])
    torch.testing.assert_close(end, clean_end)
    for actual, expected in zip(gradients, to_clean, strict=True):
        torch.testing.assert_close(actual[:, 13:], expected[:, 13:])


def test_nothing_is_computed_twice_while_all_is_finite(monkeypatch):
    monkeypatch.setattr(outer_decay, "scan_by_steps", None)
    (state, *given), starts = problem(30, 0.3)
    scan(state, Inputs(*given), starts)
