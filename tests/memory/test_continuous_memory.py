"""The continuous memory: fits, expectations, contraction, and where samples lie."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from fwrl.cores.parts.continuous_memory import (
    ContinuousMemory,
    GaussianBasis,
    beside,
    centres,
    mass_in_bins,
    quantiles,
    regression,
)

PUBLISHED = (0.01, 0.05)


def double(*values):
    return torch.tensor(values, dtype=torch.double)


def memory(**settings):
    defaults = {
        "basis_functions": 64,
        "widths": None,
        "segment": 16,
        "samples": 64,
        "contraction": 0.75,
        "ridge": 0.5,
    }
    return ContinuousMemory(**(defaults | settings)).double()


def random_numbers(*shape):
    return torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("length", [5, 16, 33])
def test_the_coefficients_solve_the_normal_equations(length):
    basis, x = GaussianBasis(64), random_numbers(length, 3)
    coefficients = regression(basis, centres(length), beside(length), 0.5).mT @ x
    # from -1/2 to 3/2 at the same spacing, zeros outside
    spacing, count = 1 / length, 2 * length - length % 2
    position = torch.arange(count).double() * spacing + 0.5 - (count - 1) / 2 * spacing
    inside = (position > 0) & (position < 1)
    assert inside.sum() == length
    padded = torch.zeros(count, 3, dtype=torch.double)
    padded[inside] = x
    features = basis(position).mT
    left = (features @ features.mT + 0.5 * torch.eye(64)) @ coefficients
    torch.testing.assert_close(left, features @ padded, atol=1e-8, rtol=0)


@pytest.mark.parametrize(
    ("ridge", "errors"),
    [
        (1.0, (4.9e-5, 1.3e-5, 5.1e-6)),
        (0.5, (2.4e-5, 7.7e-6, 3.4e-6)),
        (0.01, (1.1e-6, 9.6e-7, 7.8e-7)),
        (1e-4, (3e-8, 3.5e-7, 3.3e-7)),
    ],
)
def test_smooth_signals_are_reconstructed(ridge, errors):
    basis = GaussianBasis(64, PUBLISHED)
    for length, error in zip((64, 256, 1024), errors, strict=True):
        t = centres(length)
        x = torch.stack([(6 * math.pi * t).sin(), t], dim=1)
        fitted = basis(t) @ regression(basis, t, double(), ridge).mT @ x
        assert error / 1.5 < (fitted - x).square().mean() < error * 1.5


def test_widths_are_published_where_the_grid_allows_and_wider_elsewhere():
    fine, coarse = GaussianBasis(512), GaussianBasis(64)
    assert fine.variance.sqrt()[[0, 255, 256, 511]].tolist() == [0.01, 0.01, 0.05, 0.05]
    torch.testing.assert_close(coarse.variance.sqrt()[[0, 32]], double(1 / 31, 2 / 31))
    torch.testing.assert_close(coarse.mean[[0, 1, 31, 32, 63]], double(0, 1 / 31, 1, 0, 1))


def test_expectations_and_masses_agree_with_quadrature():
    basis = GaussianBasis(16)
    mean, variance = double(0.0, 0.3, 0.92), double(1e-3, 0.04, 0.5)
    t = torch.linspace(-8, 9, 400_001, dtype=torch.double)
    density = torch.exp(-0.5 * (t - mean[:, None]) ** 2 / variance[:, None])
    density = density / (2 * math.pi * variance[:, None]).sqrt()
    by_sum = torch.trapezoid(density.unsqueeze(-1) * basis(t), t, dim=1)
    torch.testing.assert_close(basis.expectation(mean, variance), by_sum, atol=1e-8, rtol=0)
    edges = torch.linspace(0, 1, 6, dtype=torch.double)
    by_sum = torch.stack(
        [
            torch.trapezoid(density * ((t >= low) & (t <= high)), t, dim=1)
            for low, high in pairwise(edges)
        ],
        dim=1,
    )
    torch.testing.assert_close(mass_in_bins(mean, variance, edges), by_sum, atol=5e-4, rtol=0)


def test_gradients_agree_with_finite_differences():
    basis = GaussianBasis(8)
    mean, variance = double(0.2, 0.7).requires_grad_(), double(0.01, 0.3).requires_grad_()
    assert torch.autograd.gradcheck(basis.expectation, (mean, variance))
    folded = memory(basis_functions=8, samples=7, segment=3)
    holds = torch.tensor([True, False])
    coefficients, segment, histogram = (
        random_numbers(2, *shape).requires_grad_() for shape in ((8, 2), (3, 2), (5,))
    )

    def fold(coefficients, segment, histogram):
        return folded.fold(coefficients, segment, holds, histogram.square() + 0.1)

    assert torch.autograd.gradcheck(fold, (coefficients, segment, histogram))


def smooth(memory_of, segment=16):
    t = centres(segment)
    x = torch.stack([(2 * math.pi * t).sin(), t], dim=1).unsqueeze(0)
    empty = torch.zeros(1, len(memory_of.basis.mean), 2, dtype=torch.double)
    return memory_of.fold(empty, x, torch.tensor([False]), None)


def test_a_signal_moves_towards_zero_by_the_contraction_and_is_kept():
    """A value stored at t lies at 0.75^k t after k segments of zeros."""
    folded, holds = memory(), torch.tensor([True])
    first = smooth(folded)
    t = torch.linspace(0.15, 0.7, 23, dtype=torch.double)
    now, nothing = first, torch.zeros(1, 16, 2, dtype=torch.double)
    for k, error in enumerate((1e-7, 3e-5, 1e-4, 2e-4), start=1):
        now = folded.fold(now, nothing, holds, None)
        moved, stored = folded.basis(0.75**k * t) @ now, folded.basis(t) @ first
        assert (moved - stored).square().mean() < error
        assert stored.square().mean() > 0.3


def test_a_new_segment_lies_behind_the_contraction_in_its_order():
    folded = memory(basis_functions=512, samples=128, ridge=0.01)
    position = torch.arange(1, 17).double() / 16
    # it goes on where the old signal ended
    x = torch.stack([(2 * math.pi * position).cos() - 1, 1 - position], dim=1)
    both = folded.fold(smooth(folded), x.unsqueeze(0), torch.tensor([True]), None)[0]
    read = folded.basis(0.75 + 0.25 * position[:-1]) @ both
    torch.testing.assert_close(read, x[:-1], atol=0.02, rtol=0)


def test_the_first_segment_takes_all_of_the_memory():
    folded = memory(ridge=0.01)
    t = centres(16)[2:-2]
    read = folded.basis(t) @ smooth(folded)[0]
    expected = torch.stack([(2 * math.pi * t).sin(), t], dim=1)
    torch.testing.assert_close(read, expected, atol=0.02, rtol=0)


def test_many_folds_stay_bounded():
    folded = memory()
    now, holds = smooth(folded), torch.tensor([True])
    after = []
    for _ in range(200):
        now = folded.fold(now, torch.ones(1, 16, 2, dtype=torch.double), holds, None)
        after.append(folded.basis(centres(200)) @ now[0])
    assert after[-1].abs().max() < 1.5
    torch.testing.assert_close(after[-1], after[99])


def test_quantiles_of_an_even_histogram_are_even():
    levels = (torch.arange(1, 65).double() - 0.5) / 64
    for bins in (1, 7, 128):
        even = torch.full((2, bins), 0.3, dtype=torch.double)
        torch.testing.assert_close(quantiles(even, levels)[1], levels, atol=1e-12, rtol=0)
        torch.testing.assert_close(quantiles(0 * even, levels)[0], levels, atol=1e-12, rtol=0)


def test_quantiles_invert_the_distribution():
    histogram = random_numbers(3, 9).square()
    levels = (torch.arange(1, 41).double() - 0.5) / 40
    found = quantiles(histogram, levels).numpy()
    mass = histogram.numpy() / histogram.numpy().sum(1, keepdims=True) + 0.01 / 9
    for row, at in zip(mass / mass.sum(1, keepdims=True), found, strict=True):
        reached = np.interp(at, np.arange(10) / 9, np.concatenate([[0], row.cumsum()]))
        np.testing.assert_allclose(reached, levels, atol=1e-12)


def test_sticky_with_an_even_histogram_is_the_plain_memory_with_samples_half_a_step_off():
    folded, holds = memory(samples=2000), torch.tensor([True])
    before, segment = smooth(folded), random_numbers(1, 16, 2)
    plain = folded.fold(before, segment, holds, None)
    sticky = folded.fold(before, segment, holds, torch.ones(1, 128, dtype=torch.double))
    t = centres(100)
    torch.testing.assert_close(folded.basis(t) @ sticky, folded.basis(t) @ plain, atol=1e-2, rtol=0)
    few = memory(samples=8)
    shifted = few.basis((torch.arange(1, 9).double() - 0.5) / 8) @ before
    expected = few.old @ shifted + few.new @ segment
    found = few.fold(before, segment, holds, torch.ones(1, 128, dtype=torch.double))
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def test_what_was_attended_to_keeps_more_room():
    folded, holds = memory(), torch.tensor([True])
    attended = torch.zeros(1, 100, dtype=torch.double)
    attended[:, :50] = 1.0
    nothing = torch.zeros(1, 16, 2, dtype=torch.double)
    after = folded.fold(smooth(folded), nothing, holds, attended)
    # the ramp t is read up to 1/2 only, over nearly all of the old part
    ramp = folded.basis(double(0.2, 0.4, 0.6)) @ after[0, :, 1]
    torch.testing.assert_close(ramp, double(0.2, 0.4, 0.6) / 0.75 / 2, atol=0.02, rtol=0)
