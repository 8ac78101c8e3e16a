"""Random features against what they estimate (Choromanski et al. 2021), in float64 on the CPU.

``attention``: the output of attention over a sequence, with random queries, keys and values, for
growing numbers of directions. ``kernel``: one number, ``exp(x . y)``, for pairs of vectors at
several angles, beside the closed forms of its error.
"""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import PositiveFloat, PositiveInt

from fwrl.bench.benchmark import Benchmark, Measurement, Progress, Row, Settings
from fwrl.bench.favor.figure import draw_errors
from fwrl.bench.favor.task import (
    attention_error,
    attention_inputs,
    expected_kernel_error,
    kernel,
    kernel_error,
    orthogonal_bound,
    pairs_at,
    softmax_attention,
)
from fwrl.bench.results import read_published
from fwrl.feature_maps import FEATURE_MAPS
from fwrl.feature_maps.random import Directions, RandomFeatures

Map = Literal["favor", "favor_hyperbolic", "favor_trigonometric"]
# Cosines of the angles of ``kernel``; at -1 and 1 some estimates are exact.
COSINES = (-0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9)


class FavorSettings(Settings):
    """The feature maps to compare, and the precision of the measurements."""

    axes: ClassVar[tuple[str, ...]] = (
        "seeds", "feature_maps", "directions", "scales", "vector_lengths",
    )  # fmt: skip

    feature_maps: tuple[Map, ...] = ("favor_trigonometric", "favor", "favor_hyperbolic")
    """Random features, by their names in ``fwrl list features``."""
    directions: tuple[Directions, ...] = (
        "independent", "orthogonal", "orthogonal_regularised",
    )  # fmt: skip
    """Ways to draw the random directions."""
    size: PositiveInt = 16
    """Size of queries, keys, values and the vectors of ``kernel``."""
    num_directions: tuple[PositiveInt, ...] = (8, 16, 32, 64, 128, 256, 512)
    """Numbers of directions for ``attention``. ``favor`` has a feature for each, other maps two."""
    scales: tuple[PositiveFloat, ...] = (0.5, 1.0)
    """Standard deviations of queries and keys; logits have its square."""
    length: PositiveInt = 1024
    """Time steps of the sequences."""
    samples: PositiveInt = 15
    """Number of sequences and of draws of directions; all maps get the same sequences."""
    vector_lengths: tuple[PositiveFloat, ...] = (0.35, 0.7)
    """Lengths of the vectors of ``kernel``. The mean error of longer ones cannot be measured: a few
    rare directions dominate it."""
    draws: PositiveInt = 50_000
    """Estimates of each kernel, each with as many directions as the vectors have entries."""


def points(settings: FavorSettings) -> list[Row]:
    """A point for each curve, which runs over numbers of directions or over angles."""
    return [
        {"quantity": quantity, "map": name, "directions": kind, "scale": scale, "seed": seed}
        for seed in settings.seeds
        for quantity, scales in (
            ("attention", settings.scales),
            ("kernel", settings.vector_lengths),
        )
        for scale in scales
        for name in settings.feature_maps
        for kind in settings.directions
    ]


def measure(settings: FavorSettings, point: Row, _folder: Path) -> Measurement:
    """The rows of one curve."""
    if point["quantity"] == "kernel":
        return (yield from _kernel_curve(settings, point))
    return (yield from _attention_curve(settings, point))


def _attention_curve(settings: FavorSettings, point: Row) -> Measurement:
    name, kind, seed = str(point["map"]), cast(Directions, point["directions"]), int(point["seed"])
    data = torch.Generator().manual_seed(1_000 + seed)
    drawing = torch.Generator().manual_seed(2_000 + seed)
    errors: dict[int, list[float]] = {count: [] for count in settings.num_directions}
    for sample in range(settings.samples):
        yield Progress(sample, settings.samples)
        inputs = attention_inputs(settings.length, settings.size, float(point["scale"]), data)
        exact = softmax_attention(inputs)
        for count, found in errors.items():
            function = FEATURE_MAPS[name].apply
            features = RandomFeatures(function, settings.size, count, directions=kind)
            features.redraw(drawing)
            found.append(attention_error(features, inputs, exact))
    return [
        {
            "num_directions": count,
            "error": statistics.mean(found),
            "median": statistics.median(found),
            "lowest": min(found),
            "highest": max(found),
        }
        for count, found in errors.items()
    ]


def _kernel_curve(settings: FavorSettings, point: Row) -> Measurement:
    name, kind, count = str(point["map"]), cast(Directions, point["directions"]), settings.size
    generator = torch.Generator().manual_seed(3_000 + int(point["seed"]))
    pairs = pairs_at(torch.tensor(COSINES), float(point["scale"]), settings.size)
    total = torch.zeros(len(COSINES), dtype=torch.double)
    for drawn, piece in _pieces(settings.draws):
        yield Progress(drawn, settings.draws)
        total += piece * kernel_error(name, kind, pairs, count, piece, generator)
    expected = expected_kernel_error(name, pairs, count)
    rows: list[Row] = [
        {
            "num_directions": count,
            "kernel": kernel(pairs)[index].item(),
            "error": total[index].item() / settings.draws,
            "expected_independent": expected[index].item(),
        }
        for index in range(len(COSINES))
    ]
    if (name, kind) == ("favor", "orthogonal"):
        for row, most in zip(rows, orthogonal_bound(pairs, count).tolist(), strict=True):
            row["bound_orthogonal"] = most
    return rows


def _pieces(draws: int, most: int = 4_096) -> Iterator[tuple[int, int]]:
    """The number of draws before each piece, and in it."""
    for before in range(0, draws, most):
        yield before, min(most, draws - before)


# Medians of eight draws from a separate implementation; the paper has its errors in a figure only.
PUBLISHED = read_published("favor")


def draw(settings: FavorSettings, rows: list[Row], path: Path) -> None:
    """The errors, beside the reference if it was measured on the same sizes."""
    same = (settings.length, settings.size) == (1024, 16)
    draw_errors(rows, PUBLISHED if same else [], path)


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"length": 128, "samples": 3, "num_directions": (8, 32), "draws": 1_000},
    "cpu": {},
    # the paper does not say how its random inputs were normalised
    "paper": {"length": 4096},
}

BENCHMARK = Benchmark(FavorSettings, PRESETS, points, measure, draw, PUBLISHED)
