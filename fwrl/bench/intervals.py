"""Intervals of what several trainings have reached."""

import math
from collections.abc import Sequence
from statistics import mean, variance
from typing import NamedTuple

# Of a normal distribution, 95 of 100 lie within so many standard deviations.
STANDARD_DEVIATIONS = 1.96


class Interval(NamedTuple):
    """A mean and how far the truth may be from it, with 95 of 100 chances."""

    mean: float
    margin: float


def normal_interval(values: Sequence[float], errors: Sequence[float]) -> Interval:
    """The mean over seeds, with what varies between them and what varies inside each.

    Args:
        values: Of each seed.
        errors: The standard error of each value, from what it was measured on.
    """
    between = variance(values) if len(values) > 1 else 0.0
    within = mean(error**2 for error in errors)
    margin = STANDARD_DEVIATIONS * math.sqrt((between + within) / len(values))
    return Interval(mean(values), margin)
