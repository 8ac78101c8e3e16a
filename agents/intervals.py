"""Confidence intervals of 95 %: the bootstrap for evaluations, Student's t for a few seeds."""

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

RESAMPLES = 2000
TAIL = (1 - 0.95) / 2
# Quantiles of Student's distribution that 2.5 of 100 draws exceed, for 1 degree of freedom, 2 and
# so on; and that of the normal distribution.
STUDENT = 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262
NORMAL = 1.960


class Estimate(NamedTuple):
    """A mean or interquartile mean, and the ends of its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def interquartile_mean(values: Float[np.ndarray, "*B n"]) -> NDArray[Any]:
    """The mean of the middle half along the last axis (Agarwal et al. 2021)."""
    cut = values.shape[-1] // 4
    ordered = np.sort(values, axis=-1)
    return np.asarray(ordered[..., cut : values.shape[-1] - cut].mean(-1))


def bootstrap(groups: Sequence[Sequence[float]]) -> Estimate:
    """The interquartile mean of all values, and its percentile bootstrap interval.

    Each group, such as the seeds of one task, is resampled by itself (Agarwal et al. 2021), with a
    fixed seed, so that the same values give the same interval. The interval is NaN if no group has
    two values: its width would be 0, as if nothing were uncertain.
    """
    generator = np.random.default_rng(0)
    arrays = [np.array(group, float) for group in groups]
    means = interquartile_mean(np.concatenate(_resampled(arrays, generator), axis=1))
    return Estimate(float(interquartile_mean(np.concatenate(arrays))), *_ends(means, groups))


def improvement(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> Estimate:
    """How probably a run of ours scores higher than one of theirs in the same task.

    That is the share of pairs of runs in which ours is higher, equal ones counted half, averaged
    over tasks (probability of improvement, Agarwal et al. 2021), with a stratified bootstrap
    interval as in ``bootstrap``.

    Args:
        ours: The scores of our runs in each task.
        theirs: Those of theirs in the same tasks.
    """
    generator = np.random.default_rng(0)
    sides = [[np.array(group, float) for group in side] for side in (ours, theirs)]
    share = np.mean([_share(*pair) for pair in zip(*sides, strict=True)])
    drawn = [_resampled(side, generator) for side in sides]
    shares = np.mean([_share(*pair) for pair in zip(*drawn, strict=True)], axis=0)
    return Estimate(float(share), *_ends(shares, [*ours, *theirs]))


def _share(ours: Float[np.ndarray, "*B n"], theirs: Float[np.ndarray, "*B m"]) -> NDArray[Any]:
    """The share of pairs in which ours is higher, equal ones counted half."""
    difference = ours[..., :, None] - theirs[..., None, :]
    return np.asarray(((np.sign(difference) + 1) / 2).mean((-2, -1)))


def _resampled(
    groups: Sequence[NDArray[np.float64]], generator: np.random.Generator
) -> list[NDArray[np.float64]]:
    """Draws of each group from itself, as many values as it has: ``[RESAMPLES, values]``."""
    return [each[generator.integers(0, len(each), (RESAMPLES, len(each)))] for each in groups]


def _ends(
    draws: Float[np.ndarray, " resample"], groups: Sequence[Sequence[float]]
) -> tuple[float, float]:
    """The ends of the interval that holds 95 of 100 draws; NaN if no group has two values."""
    if all(len(group) < 2 for group in groups):
        return math.nan, math.nan
    low, high = np.quantile(draws, [TAIL, 1 - TAIL])
    return float(low), float(high)


def student(values: Sequence[float], error: float = math.nan) -> Estimate:
    """The mean over seeds, and its interval by Student's distribution.

    Each seed has its own model and its own test: the spread between seeds includes both.

    Args:
        values: One for each seed.
        error: The standard error of one value in its own test. It is used for a single seed only:
            the interval is then of this model alone; NaN where the error is not known.
    """
    count, middle = len(values), mean(values)
    if count == 1:
        margin = NORMAL * error
    else:
        # the expansion of Student's quantile in the inverse of the degrees of freedom
        quantile = STUDENT[count - 2] if count - 2 < len(STUDENT) else NORMAL + 2.4 / (count - 1)
        margin = quantile * stdev(values) / math.sqrt(count)
    return Estimate(middle, middle - margin, middle + margin)
