"""Retrieval, setting 2 of Schlag et al. (2021a): can a memory replace what it holds?

Keys come again with other values, and the latest value counts.
"""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import PositiveInt
from typing_extensions import override

from fwrl.bench.benchmark import Benchmark, Row
from fwrl.bench.retrieval.benchmark import RetrievalSettings, measure, points, read_published
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
PUBLISHED = read_published("published_update.csv")


class UpdateSettings(RetrievalSettings):
    """The published recipe but for the points."""

    replacement: ClassVar[bool] = True

    methods: tuple[str, ...] = UPDATES
    """Memories, by the names of ``METHODS`` in fwrl/bench/retrieval/benchmark.py."""
    sizes: tuple[PositiveInt, ...] = tuple(range(20, 201, 20))
    """S: how many keys, and how many values, there are."""
    evaluated: Literal["published", "as_trained"] = "published"
    """Length of the sequences that are evaluated: training sequences have 2 S pairs, the published
    evaluations had S, which is easier for memories that cannot replace."""

    @override
    def evaluation_length(self, num_keys: int) -> int:
        """Of the sequences that are evaluated."""
        return num_keys if self.evaluated == "published" else 2 * num_keys


def draw(settings: UpdateSettings, rows: list[Row], path: Path) -> None:
    """Loss against the number of keys, ours and published."""
    title = "Retrieval of the latest value of one of S keys, after 2 S writes"
    draw_losses(rows, PUBLISHED, path, title, settings.solved)


BENCHMARK = Benchmark(
    settings=UpdateSettings,
    presets={
        "smoke": {
            "methods": ("delta, dpfp 1", "sum, dpfp 1", "clipped delta, dpfp 1"),
            "sizes": (5, 10),
            "key_size": 16,
            "max_steps": 40,
            "evaluate_every": 20,
        },
        # the clipped rule is not a sum over writes: every write waits for the one before
        "cpu": {"methods": UPDATES[:4], "sizes": tuple(range(20, 101, 20))},
        "paper": {},
    },
    points=points,
    measure=measure,
    draw=draw,
    published=PUBLISHED,
)
