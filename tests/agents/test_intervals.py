"""Confidence intervals: those of SciPy and rliable, and as often right as they say."""

import numpy as np
import pytest
import torch
from scipy import stats

from agents.intervals import bootstrap, improvement, interquartile_mean, student


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 20, 101])
def test_the_interquartile_mean_is_scipys_trimmed_mean(count):
    values = np.random.default_rng(count).exponential(size=(3, count))
    np.testing.assert_allclose(interquartile_mean(values), stats.trim_mean(values, 0.25, axis=-1))


# rliable and what it imports warn of their own future
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("tasks", "seeds"), [(1, 40), (6, 7)])
def test_the_bootstrap_is_rliables(tasks, seeds):
    from rliable import library, metrics  # noqa: PLC0415 slow to import

    # tasks so different that resampling across them would be seen
    places = np.arange(tasks)[:, None] * 10.0
    values = places + np.random.default_rng(0).exponential(size=(tasks, seeds))
    points, intervals = library.get_interval_estimates(
        {"one": values.T}, lambda runs: np.array([metrics.aggregate_iqm(runs)]), reps=4000
    )
    found = bootstrap(values.tolist())
    assert found.mean == pytest.approx(points["one"][0])
    low, high = intervals["one"].ravel()
    assert found[1:] == pytest.approx((low, high), abs=0.1 * (high - low))
    across = bootstrap([values.ravel().tolist()])
    assert tasks == 1 or across.high - across.low > 3 * (high - low)


# rliable and what it imports warn of their own future
@pytest.mark.filterwarnings("ignore")
def test_the_probability_of_improvement_is_rliables():
    from rliable import library, metrics  # noqa: PLC0415 slow to import

    generator = np.random.default_rng(0)
    # whole numbers, so that many are equal
    ours, theirs = (
        generator.integers(low, low + 6, (5, seeds)).astype(float)
        for low, seeds in ((1, 4), (0, 7))
    )
    points, intervals = library.get_interval_estimates(
        {"pair": (ours.T, theirs.T)}, metrics.probability_of_improvement, reps=2000
    )
    found = improvement(ours.tolist(), theirs.tolist())
    assert found.mean == pytest.approx(np.mean(points["pair"]))
    low, high = intervals["pair"].ravel()
    assert found[1:] == pytest.approx((low, high), abs=0.1 * (high - low))
    against = improvement(theirs.tolist(), ours.tolist())
    assert against.mean == pytest.approx(1 - found.mean)


def test_where_nothing_can_be_resampled_there_is_no_interval():
    estimates = bootstrap([[3.0], [4.0]]), improvement([[1.0], [2.0]], [[1.0], [0.0]])
    assert [each.mean for each in estimates] == [3.5, 0.75]
    assert np.isnan([each[1:] for each in estimates]).all()


def test_groups_may_have_different_sizes():
    middle, low, high = bootstrap([[0.0], [1.0, 2.0, 3.0, 4.0]])
    assert 0 <= low < middle < high <= 4
    assert middle == interquartile_mean(np.array([0.0, 1, 2, 3, 4]))


def test_an_interval_is_repeatable_and_shrinks_with_more_values():
    values = np.random.default_rng(0).normal(size=400).tolist()
    middle, low, high = bootstrap([values])
    assert low < middle < high
    assert bootstrap([values]) == (middle, low, high)
    few = bootstrap([values[:25]])
    assert 2 < (few.high - few.low) / (high - low) < 8


def test_intervals_of_student_hold_the_truth_in_95_of_100_cases():
    generator = torch.Generator().manual_seed(0)
    for seeds in (2, 3, 5, 10, 12):
        draws = torch.randn(4_000, seeds, generator=generator).tolist()
        held = [low <= 0 <= high for _, low, high in (student(each, 0.0) for each in draws)]
        assert sum(held) / 4_000 == pytest.approx(0.95, abs=0.015)
    assert student([0.4], 0.1) == (0.4, pytest.approx(0.204), pytest.approx(0.596))
    assert np.isnan(student([0.4])[1:]).all()
