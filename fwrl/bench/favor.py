"""Random features against what they estimate (Choromanski et al. 2021), in float64 on the CPU.

``attention``: the output of attention over a sequence, with random queries, keys and values, for
more and more directions. ``kernel``: one number, ``exp(x . y)``, for pairs of vectors at several
angles, beside the closed forms of its error.
"""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal, cast

import torch
from pydantic import PositiveFloat, PositiveInt

from fwrl.bench.benchmark import Benchmark, Measurement, Progress, Row, Settings
from fwrl.bench.favor_figure import draw_errors
from fwrl.random_features import Directions, RandomFeatures
from fwrl.tasks.approximation_error import (
    attention_error,
    attention_inputs,
    expected_kernel_error,
    kernel,
    kernel_error,
    orthogonal_bound,
    pairs_at,
    softmax_attention,
)

Map = Literal["favor", "favor_hyperbolic", "favor_trigonometric"]
# Cosines of the angles of ``kernel``; at -1 and 1 some estimates are exact.
COSINES = (-0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9)


class FavorSettings(Settings):
    """What is compared, and how closely it is measured."""

    axes: ClassVar[tuple[str, ...]] = (
        "seeds",
        "feature_maps",
        "directions",
        "scales",
        "vector_lengths",
    )

    feature_maps: tuple[Map, ...] = ("favor_trigonometric", "favor", "favor_hyperbolic")
    directions: tuple[Directions, ...] = (
        "independent",
        "orthogonal",
        "orthogonal_regularised",
    )
    """How they are drawn."""
    size: PositiveInt = 16
    """Of queries, keys, values and the vectors of ``kernel``."""
    num_directions: tuple[PositiveInt, ...] = (8, 16, 32, 64, 128, 256, 512)
    """Of ``attention``. ``favor`` makes one feature of each, the other maps two."""
    scales: tuple[PositiveFloat, ...] = (0.5, 1.0)
    """Standard deviations of queries and keys; that of the logits is the square."""
    length: PositiveInt = 1024
    """Of the sequences."""
    samples: PositiveInt = 15
    """Sequences and draws of directions; every map gets the same sequences."""
    vector_lengths: tuple[PositiveFloat, ...] = (0.35, 0.7)
    """Of the vectors of ``kernel``. Errors of longer ones have no measurable mean: a few rare
    directions make it."""
    draws: PositiveInt = 50_000
    """Estimates of each kernel, of as many directions as the vectors are long."""


def points(settings: FavorSettings) -> list[Row]:
    """A point is a curve: over numbers of directions, or over angles."""
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
            features = RandomFeatures(name, settings.size, count, directions=kind)
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
    """How many were drawn before, and how many come next."""
    for before in range(0, draws, most):
        yield before, min(most, draws - before)


# Medians of eight draws at length 1024 and size 16, from a separate implementation: the directions,
# then for each scale the errors of trigonometric, positive and hyperbolic features, with
# independent and then with orthogonal directions. Its hyperbolic features have half the directions.
REFERENCE = {
    1.0: (
        (8, 2.6e02, 6.7e-3, 6.8e-3, 4.3e01, 9.8e-3, 6.7e-3),
        (16, 2.8e02, 6.0e-3, 6.7e-3, 5.5e01, 6.2e-3, 5.9e-3),
        (32, 3.3e01, 6.5e-3, 5.9e-3, 3.8e01, 4.7e-3, 5.7e-3),
        (64, 1.2e01, 5.6e-3, 6.0e-3, 2.3e01, 6.3e-3, 8.5e-3),
        (128, 7.8e00, 5.4e-3, 4.0e-3, 3.3e00, 5.7e-3, 5.2e-3),
        (256, 7.6e-1, 4.9e-3, 4.9e-3, 2.1e-1, 5.2e-3, 6.0e-3),
    ),
    0.5: (
        (8, 3.6e-3, 4.5e-4, 3.8e-4, 2.7e-4, 3.6e-4, 2.7e-4),
        (16, 1.5e-4, 2.4e-4, 1.6e-4, 7.3e-5, 1.8e-4, 1.5e-4),
        (32, 8.0e-5, 1.6e-4, 1.2e-4, 2.3e-5, 8.9e-5, 6.4e-5),
        (64, 3.6e-5, 9.2e-5, 1.0e-4, 1.7e-5, 6.8e-5, 6.4e-5),
        (128, 1.7e-5, 4.8e-5, 3.4e-5, 7.5e-6, 5.0e-5, 3.8e-5),
        (256, 9.7e-6, 2.4e-5, 2.8e-5, 3.4e-6, 2.2e-5, 2.0e-5),
    ),
}
COLUMNS = [
    (name, kind)
    for kind in ("independent", "orthogonal")
    for name in ("favor_trigonometric", "favor", "favor_hyperbolic")
]

PUBLISHED: list[Row] = [
    {
        "source": "a separate implementation, median of 8 draws, length 1024",
        "quantity": "attention",
        "map": name,
        "directions": kind,
        "scale": scale,
        "num_directions": count // 2 if name == "favor_hyperbolic" else count,
        "median": error,
    }
    for scale, lines in REFERENCE.items()
    for count, *errors in lines
    for (name, kind), error in zip(COLUMNS, errors, strict=True)
]


def draw(settings: FavorSettings, rows: list[Row], path: Path) -> None:
    """The errors, beside the reference where it was measured on the same sizes."""
    same = (settings.length, settings.size) == (1024, 16)
    draw_errors(rows, PUBLISHED if same else [], path)


BENCHMARK = Benchmark(
    settings=FavorSettings,
    presets={
        "smoke": {"length": 128, "samples": 3, "num_directions": (8, 32), "draws": 1_000},
        "cpu": {},
        # how its random inputs were normalised the paper does not say
        "paper": {"length": 4096},
    },
    points=points,
    measure=measure,
    draw=draw,
    published=PUBLISHED,
)
