"""Translation with any memory in the decoder (Schlag et al. 2021a, machine translation).

Published results are BLEU on WMT14 from English to German. Without the user's own files the texts
are a synthetic grammar pair, whose BLEU has another scale: only the order of methods compares.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fwrl.bench.benchmark import Benchmark, Row
from fwrl.bench.results import read_published
from fwrl.bench.translation.figure import draw_translation
from fwrl.bench.translation.settings import WORD_BY_WORD, TranslationSettings
from fwrl.bench.translation.training import measure

PUBLISHED = read_published("translation")

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
        "methods": tuple(str(row["method"]) for row in PUBLISHED),
        "data": "wmt14",
        "vocabulary": "subwords",
        "max_length": 256,
        "max_tokens": 3584,
        # published: three GPUs, sixteen batches each
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
    """Every method with one seed, then with the next; the baseline has only one."""
    return [
        {"method": method, "seed": seed}
        for number, seed in enumerate(settings.seeds)
        for method in settings.methods
        if method != WORD_BY_WORD or number == 0
    ]


def draw(settings: TranslationSettings, rows: list[Row], path: Path) -> None:
    """BLEU by method, beside the published results."""
    texts = "ours: a synthetic grammar pair"
    if settings.data is not None:
        languages = f"{settings.source_language}-{settings.target_language}"
        texts = f"ours: {settings.data.name}, {languages}"
    draw_translation(rows, PUBLISHED, texts, path)


BENCHMARK = Benchmark(TranslationSettings, PRESETS, points, measure, draw, PUBLISHED)
