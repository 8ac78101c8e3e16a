"""The history of a run: its configuration and its curves, as the diagnosis reads them."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from fwrl.run.config import RunConfig
from fwrl.run.directory import read_run_config
from fwrl.run.log import METRICS, RECENT
from fwrl.run.table import read_curves

# The mean return of the last episodes, and its standard deviation.
RETURN, SPREAD = "rollout/ep_rew_mean", "rollout/ep_rew_std"
# A return has risen if its last fifth is so many standard errors above its first.
CLEAR_RISE = 5.0


class History(NamedTuple):
    """A run: its configuration, and its curves with a row for each step and value."""

    config: RunConfig
    curves: Mapping[str, Float[np.ndarray, "rows 2"]]

    def values(self, name: str, part: slice = slice(None)) -> Float[np.ndarray, " rows"]:
        """The finite values of a metric, in a part of the run such as ``LATE``."""
        curve = self.curves[name]
        first, last = (part.start or 0.0) * self.steps, (part.stop or 1.0) * self.steps
        inside = (curve[:, 0] >= first) & (curve[:, 0] <= last)
        return curve[inside & np.isfinite(curve[:, 1]), 1]

    def middle(self, name: str, part: slice = slice(None)) -> float:
        """The median of a metric; NaN if it was never recorded there."""
        values = self.values(name, part)
        return float(np.median(values)) if len(values) else np.nan

    @property
    def steps(self) -> int:
        """Environment steps so far."""
        return int(max((curve[-1, 0] for curve in self.curves.values() if len(curve)), default=0))

    @property
    def rise(self) -> float:
        """The rise of the return from the first fifth to the last, in its standard errors."""
        first, last = self.values(RETURN, slice(0, 0.2)), self.values(RETURN, slice(0.8, 1))
        if min(len(first), len(last)) < 2:
            return 0.0
        # a run of before the spread was logged has that of the curve
        spread = self.middle(SPREAD) / RECENT**0.5
        error = np.hypot(first.std(), last.std()) if np.isnan(spread) else 2**0.5 * spread
        return float((last.mean() - first.mean()) / (error + 1e-9 * abs(first.mean()) + 1e-12))

    @property
    def learned(self) -> bool:
        """Whether the return has risen clearly."""
        return self.rise > CLEAR_RISE


def read_history(run: Path) -> History:
    """The history of the run in a directory.

    Raises:
        ConfigError: If the directory is not a run.
        FileError: If its table of metrics cannot be read.
    """
    return History(read_run_config(run), read_curves(run, list(METRICS)))
