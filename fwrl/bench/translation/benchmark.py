"""Translation with any memory in the decoder (Schlag et al. 2021a, machine translation).

Published are BLEU on WMT14 from English to German. Without files of the user's the texts are a
synthetic grammar pair, whose BLEU is another scale: only the order of the methods compares.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fwrl.bench.benchmark import Benchmark, Row
from fwrl.bench.translation.figure import draw_translation
from fwrl.bench.translation.settings import WORD_BY_WORD, TranslationSettings
from fwrl.bench.translation.training import measure

# The number of features of each head as published.
_TABLE: dict[str, tuple[int, float, float]] = {
    "softmax": (0, 26.6, 27.7),
    "linear": (64, 25.5, 26.8),
    "performer 32": (64, 24.2, 24.4),
    "performer 128": (256, 24.9, 25.3),
    "performer 256": (512, 26.7, 27.7),
    "dpfp 2": (256, 26.2, 26.9),
    "dpfp 4": (512, 26.2, 27.1),
}
PUBLISHED: list[Row] = [
    {
        "method": method,
        "texts": "WMT14 en-de",
        "features": features,
        "valid_bleu": valid,
        "test_bleu": test,
        "source": "Schlag et al. 2021, table 1",
    }
    for method, (features, valid, test) in _TABLE.items()
]

PRESETS: dict[str, Mapping[str, Any]] = {
    "smoke": {
        "methods": (WORD_BY_WORD, "softmax", "linear"),
        "languages": {"train": 2000, "valid": 20, "test": 20, "max_length": 12, "max_depth": 0},
        "width": 32,
        "layers": 1,
        "max_length": 40,
        "training": {"steps": 20},
    },
    "cpu": {
        "methods": (
            WORD_BY_WORD,
            "none",
            "softmax",
            "linear",
            "performer 64",
            "dpfp 2",
            "delta, dpfp 2",
            "gated delta",
        ),
        "max_length": 60,
        "max_tokens": 768,
        "width": 96,
        "dropout": 0.0,
        "training": {"steps": 3500, "warmup_steps": 200, "learning_rate": 3e-3},
    },
    "paper": {
        "methods": tuple(_TABLE),
        "data": "wmt14",
        "vocabulary": "subwords",
        "max_length": 256,
        "max_tokens": 3584,
        # three graphics processors, sixteen batches each
        "accumulation": 48,
        "width": 1024,
        "heads": 16,
        "layers": 6,
        "feed_forward": 4096,
        "dropout": 0.3,
        "training": {
            # about 45 epochs
            "steps": 34_000,
            "learning_rate": 5e-4,
            "warmup_steps": 4000,
            "schedule": "inverse_sqrt",
            "max_grad_norm": None,
        },
    },
}


def points(settings: TranslationSettings) -> list[Row]:
    """Each method with each seed, one seed of all first; counting needs no second seed."""
    return [
        {"method": method, "seed": seed}
        for number, seed in enumerate(settings.seeds)
        for method in settings.methods
        if method != WORD_BY_WORD or number == 0
    ]


def draw(settings: TranslationSettings, rows: list[Row], path: Path) -> None:
    """The figure of all rows that there are."""
    texts = "ours: a synthetic grammar pair"
    if settings.data is not None:
        languages = f"{settings.source_language}-{settings.target_language}"
        texts = f"ours: {settings.data.name}, {languages}"
    draw_translation(rows, PUBLISHED, texts, path)


BENCHMARK = Benchmark(TranslationSettings, PRESETS, points, measure, draw, PUBLISHED)
