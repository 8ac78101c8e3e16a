"""The sequential scan is what recurrences mean; the parallel one is the same for linear ones."""

import pytest
import torch

from fwrl.core import by_spans, by_steps
from fwrl.kernels.associative_scan import linear_recurrence
from fwrl.state import time_in_episode

B = 3
LENGTHS = [1, 2, 63, 64, 65, 257]
DENSITIES = [0, 0.02, 0.3, 1]
REAL, COMPLEX = torch.double, torch.complex128

either_type = pytest.mark.parametrize("dtype", [REAL, COMPLEX], ids=["real", "complex"])


def sequential(factor, addend, state, starts):
    def advance(now, h):
        factor_t, addend_t = now
        h = factor_t * h + addend_t
        return torch.view_as_real(h) if h.is_complex() else h, h

    inputs = (factor.expand_as(addend), addend)
    states, _ = by_steps(advance, inputs, state, starts, torch.zeros_like(state))
    return torch.view_as_complex(states) if state.is_complex() else states


def problem(times, density, dtype, factor_shape=None, features=(2, 3)):
    """Leaves: factor (no longer than 1, so that nothing explodes), addend, state; then starts."""
    factor = torch.randn(factor_shape or (B, times, *features), dtype=dtype)
    factor = factor / factor.abs().clamp_min(1)
    leaves = [
        factor,
        torch.randn(B, times, *features, dtype=dtype),
        torch.randn(B, *features, dtype=dtype),
    ]
    return [leaf.requires_grad_() for leaf in leaves], torch.rand(B, times) < density


def with_gradients(recurrence, leaves, starts):
    states = recurrence(*leaves, starts)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(states.shape, generator=generator, dtype=states.dtype)
    # the real part of a product makes the gradient depend on both parts of complex states
    loss = (states * weights).sum()
    loss = loss.real if loss.is_complex() else loss
    return [states, *torch.autograd.grad(loss, leaves)]


def assert_equal(leaves, starts):
    actual = with_gradients(linear_recurrence, leaves, starts)
    expected = with_gradients(sequential, leaves, starts)
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-10)


@either_type
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("times", LENGTHS)
def test_parallel_and_sequential_agree_in_states_and_gradients(times, density, dtype):
    torch.manual_seed(times)
    leaves, starts = problem(times, density, dtype)
    assert_equal(leaves, starts)


@either_type
@pytest.mark.parametrize("shape", [(1, 1, 2, 3), (1, 40, 2, 3), (B, 1, 2, 3), (B, 40, 1, 3)])
def test_a_factor_can_be_the_same_for_several_streams_times_or_features(shape, dtype):
    torch.manual_seed(0)
    leaves, starts = problem(40, 0.1, dtype, factor_shape=shape)
    assert_equal(leaves, starts)


@either_type
def test_finite_differences(dtype):
    torch.manual_seed(0)
    leaves, starts = problem(5, 0.3, dtype, features=(2,))
    assert torch.autograd.gradcheck(lambda *given: linear_recurrence(*given, starts), leaves)


@either_type
def test_a_factor_without_a_gradient(dtype):
    torch.manual_seed(0)
    (factor, addend, state), starts = problem(9, 0.3, dtype)
    expected = with_gradients(sequential, [factor, addend, state], starts)
    states = linear_recurrence(factor.detach(), addend, state, starts)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(states.shape, generator=generator, dtype=dtype)
    loss = (states * weights).sum()
    gradients = torch.autograd.grad(loss.real if loss.is_complex() else loss, [addend, state])
    torch.testing.assert_close(list(gradients), expected[2:])


@either_type
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("start", [0, 1, 2, 7, 8, 30])
@pytest.mark.parametrize("poisoned", ["state", "factor", "addend"])
def test_an_undefined_past_does_not_cross_a_start(poisoned, start, poison, dtype):
    torch.manual_seed(0)
    leaves, starts = problem(31, 0, dtype)
    starts[:, start] = True
    clean = linear_recurrence(*leaves, starts)[:, start:]
    weights = torch.randn(clean.shape, dtype=dtype)
    expected = torch.autograd.grad((clean * weights).abs().sum(), leaves)
    with torch.no_grad():
        if poisoned == "state":
            leaves[2].fill_(poison)
        else:
            leaves[0 if poisoned == "factor" else 1][:, :start] = poison
    states = linear_recurrence(*leaves, starts)[:, start:]
    actual = torch.autograd.grad((states * weights).abs().sum(), leaves)
    torch.testing.assert_close(states, clean)
    for given, right in zip(actual[:2], expected[:2], strict=True):
        torch.testing.assert_close(given[:, start:], right[:, start:])
    if poisoned != "factor":
        torch.testing.assert_close(actual[1:], expected[1:])


def test_an_undefined_future_does_not_reach_back_over_a_start():
    torch.manual_seed(0)
    leaves, starts = problem(20, 0, REAL)
    starts[:, 9] = True
    weights = torch.randn(B, 20, 2, 3, dtype=REAL)
    expected = torch.autograd.grad((linear_recurrence(*leaves, starts) * weights).sum(), leaves)
    weights[:, 9:] = float("nan")
    actual = torch.autograd.grad((linear_recurrence(*leaves, starts) * weights).sum(), leaves)
    for given, right in zip(actual[:2], expected[:2], strict=True):
        torch.testing.assert_close(given[:, :9], right[:, :9])
    torch.testing.assert_close(actual[2], expected[2])


def test_an_undefined_episode_stays_undefined_until_the_next():
    (factor, addend, state), starts = problem(12, 0, REAL)
    starts[:, 8] = True
    addend = addend.detach().clone()
    addend[:, 3] = float("nan")
    undefined = linear_recurrence(factor, addend, state, starts).isnan().all(dim=(2, 3))
    assert undefined.tolist() == [[3 <= t < 8 for t in range(12)]] * B


def test_products_may_vanish_in_float32():
    starts = torch.zeros(1, 2000, dtype=torch.bool)
    factor = torch.tensor([0.0, 1e-30, 0.5, 1.0]).view(1, 1, 4).requires_grad_()
    addend = torch.ones(1, 2000, 4)
    states = linear_recurrence(factor, addend, torch.zeros(1, 4), starts)
    torch.testing.assert_close(states[0, -1], torch.tensor([1.0, 1.0, 2.0, 2000.0]))
    (gradient,) = torch.autograd.grad(states[:, -1].sum(), factor)
    assert gradient.isfinite().all()


def test_the_gradient_has_none_of_its_own():
    leaves, starts = problem(4, 0, REAL)
    loss = linear_recurrence(*leaves, starts).square().sum()
    (gradient,) = torch.autograd.grad(loss, leaves[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_inputs_are_left_as_they_were():
    leaves, starts = problem(9, 0.3, REAL)
    before = [leaf.detach().clone() for leaf in leaves]
    marked = starts.clone()
    for recurrence in (linear_recurrence, sequential):
        with_gradients(recurrence, leaves, starts)
        torch.testing.assert_close([leaf.detach() for leaf in leaves], before, atol=0, rtol=0)
        assert torch.equal(starts, marked)


def test_by_steps_reads_nested_inputs_and_keeps_nested_states():
    inputs = {"a": torch.arange(6.0).view(2, 3), "b": (torch.ones(2, 3, 1),)}
    starts = torch.tensor([[False, True, False], [False, False, False]])
    fresh = (torch.full((2,), 100.0), torch.zeros(2))

    def advance(now, state):
        total, count = state
        total = total + now["a"]
        return total + 10 * now["b"][0].squeeze(1), (total, count + 1)

    y, (total, count) = by_steps(advance, inputs, (torch.zeros(2), torch.zeros(2)), starts, fresh)
    assert y.tolist() == [[10, 111, 113], [13, 17, 22]]
    assert total.tolist() == [103, 12]
    assert count.tolist() == [2, 3]


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("times", LENGTHS)
def test_time_in_episode_counts_as_a_loop_does(times, density):
    torch.manual_seed(times)
    starts = torch.rand(B, times) < density
    before = torch.tensor([0.0, 5.0, 1000.0])
    expected, count = [], before.clone()
    for t in range(times):
        count = torch.where(starts[:, t], 0.0, count) + 1
        expected.append(count)
    actual = time_in_episode(starts, before)
    torch.testing.assert_close(actual, torch.stack(expected, dim=1), atol=0, rtol=0)


def test_time_in_episode_forgets_an_undefined_count():
    starts = torch.tensor([[False, True, False]])
    counts = time_in_episode(starts, torch.tensor([float("nan")]))
    assert counts[0, 1:].tolist() == [1, 2]


@pytest.mark.parametrize("density", [0, 0.1, 1])
def test_spans_are_the_steps_that_nothing_changes_in(density):
    x = torch.randn(B, 40, 2, dtype=REAL, requires_grad=True)
    starts, changes = torch.rand(2, B, 40) < density
    state, fresh = torch.randn(2, B, 2, dtype=REAL)
    calls = []

    def span(inputs, h):
        y, change = inputs
        calls.append(y.shape[1])
        return y * h[:, None], torch.where(change[:, -1:], h + y[:, -1], h)

    def step(inputs, h):
        y, end = span(tuple(leaf[:, None] for leaf in inputs), h)
        return y[:, 0], end

    found = by_spans(span, (x, changes), state, starts, fresh, changes)
    spans = list(calls)
    expected = by_steps(step, (x, changes), state, starts, fresh)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found[0].square().sum(), x),
        torch.autograd.grad(expected[0].square().sum(), x),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)
    assert sum(spans) == 40
    cuts = (changes.any(dim=0)[:-1] | starts.any(dim=0)[1:]).sum().item()
    assert len(spans) == cuts + 1
