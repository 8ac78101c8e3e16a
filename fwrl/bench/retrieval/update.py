"""Retrieval, setting 2 of Schlag et al. (2021a): can a memory replace what it holds?

Keys come again with other values, and the latest value counts.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import PositiveInt
from typing_extensions import override

from fwrl.bench.benchmark import Benchmark, Row
from fwrl.bench.retrieval.benchmark import (
    Methods,
    RetrievalSettings,
    measure,
    points,
    published_losses,
)
from fwrl.bench.retrieval.figure import draw_losses

UPDATES = (
    "delta, elu + 1",
    "delta, dpfp 1",
    "delta, dpfp 2",
    "sum, dpfp 1",
    "clipped delta, dpfp 1",
    "delta, favor 64",
    "delta, favor 128",
    "clipped delta, tanh",
)
PUBLISHED = published_losses("published_update.csv")


class UpdateSettings(RetrievalSettings):
    """The defaults are the published recipe."""

    replacement: ClassVar[bool] = True

    methods: Methods = UPDATES
    """Memories, by the names of ``METHODS`` in fwrl/bench/retrieval/benchmark.py."""
    sizes: tuple[PositiveInt, ...] = tuple(range(20, 201, 20))
    """S: the number of different keys, and of different values."""
    evaluated: Literal["published", "as_trained"] = "published"
    """Length of the evaluated sequences. Training sequences have 2 S pairs; the published
    evaluations had S, which is easier for memories that cannot replace."""

    @override
    def evaluation_length(self, num_keys: int) -> int:
        """Pairs in a sequence that is evaluated."""
        return num_keys if self.evaluated == "published" else 2 * num_keys


def draw(settings: UpdateSettings, rows: list[Row], path: Path) -> None:
    """Loss against the number of keys, ours and published."""
    title = "Retrieval of the latest value of one of S keys, after 2 S writes"
    draw_losses(rows, PUBLISHED, path, title, settings.solved)


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "methods": ("delta, dpfp 1", "sum, dpfp 1", "clipped delta, dpfp 1"),
        "sizes": (5, 10),
        "key_size": 16,
        "max_steps": 40,
        "evaluate_every": 20,
    },
    # the clipped rule is slow: its reads are no sum over writes, which go one after the other
    "cpu": {"methods": UPDATES[:4], "sizes": tuple(range(20, 101, 20))},
    "paper": {},
}

BENCHMARK = Benchmark(UpdateSettings, PRESETS, points, measure, draw, PUBLISHED)
