import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.normalisers import RunningMoments


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 100))
def test_pieces_give_the_moments_of_the_whole(sizes, seed):
    rows = np.random.default_rng(seed).normal(5.0, 3.0, (sum(sizes), 2))
    moments = RunningMoments(2)
    for piece in np.split(rows, np.cumsum(sizes)[:-1]):
        moments.update(torch.tensor(piece).view(1, -1, 2))
    assert moments.count == len(rows)
    np.testing.assert_allclose(moments.mean, rows.mean(0), atol=1e-12)
    np.testing.assert_allclose(moments.variance, rows.var(0), atol=1e-12)


def test_a_small_spread_far_from_zero_is_not_lost():
    moments, x = RunningMoments(1), 1e8 + torch.rand(1000, 1, dtype=torch.float64)
    for piece in x.split(10):
        moments.update(piece)
    torch.testing.assert_close(moments.variance, x.var(0, correction=0), rtol=1e-3, atol=0)


def test_normalised_features_have_zero_mean_and_unit_variance_within_the_clip():
    torch.manual_seed(0)
    moments, x = RunningMoments(3), 4.0 + 2.0 * torch.randn(100, 5, 3)
    moments.update(x)
    y = moments.normalise(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.mean((0, 1)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(y.var((0, 1)), torch.ones(3), atol=0.01, rtol=0)
    assert moments.normalise(torch.full((1, 3), 1e6)).tolist() == [[10.0] * 3]
    torch.testing.assert_close(moments.scale(), x.std((0, 1)), atol=0.01, rtol=0)


def test_nothing_shown_changes_nothing_and_a_constant_is_no_division_by_zero():
    moments = RunningMoments(1)
    assert moments.normalise(torch.tensor([[0.5]])).item() == 0.5
    moments.update(torch.full((10, 1), 3.0))
    assert moments.normalise(torch.tensor([[3.0]])).item() == 0.0
    assert moments.scale().isfinite().all()


def test_they_are_saved():
    moments, other = RunningMoments(2), RunningMoments(2)
    moments.update(torch.randn(10, 2))
    other.load_state_dict(moments.state_dict())
    x = torch.randn(4, 2)
    assert torch.equal(moments.normalise(x), other.normalise(x))
    assert other.count == 10
