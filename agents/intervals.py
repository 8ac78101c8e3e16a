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
    fixed seed, so that the same values give the same interval.
    """
    generator = np.random.default_rng(0)
    arrays = [np.array(group, float) for group in groups]
    drawn = [each[generator.integers(0, len(each), (RESAMPLES, len(each)))] for each in arrays]
    means = interquartile_mean(np.concatenate(drawn, axis=1))
    low, high = np.quantile(means, [TAIL, 1 - TAIL])
    return Estimate(float(interquartile_mean(np.concatenate(arrays))), float(low), float(high))


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
