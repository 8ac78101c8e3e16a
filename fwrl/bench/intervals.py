"""Intervals of what several trainings have reached."""

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import NamedTuple

# Between minus and plus so many standard errors lie 95 of 100 draws of Student's distribution, for
# 1 degree of freedom, 2 and so on; and of a normal one.
STUDENT = 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262
NORMAL = 1.960


class Interval(NamedTuple):
    """A mean, and how far from it the 95 % interval goes."""

    mean: float
    margin: float


def interval(values: Sequence[float], error: float) -> Interval:
    """The mean over seeds, by Student's distribution.

    Each seed has its own model and its own test: what varies between seeds holds both.

    Args:
        values: Of each seed.
        error: The standard error of one value by its own test, for a single seed: the interval
            then is of this model alone.
    """
    count = len(values)
    if count == 1:
        return Interval(values[0], NORMAL * error)
    # the expansion of Student's quantile in the inverse of the degrees of freedom
    quantile = STUDENT[count - 2] if count - 2 < len(STUDENT) else NORMAL + 2.4 / (count - 1)
    return Interval(mean(values), quantile * stdev(values) / math.sqrt(count))
