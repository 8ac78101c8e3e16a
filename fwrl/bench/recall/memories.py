"""The memories that ``fwrl bench recall`` compares, and how each fits a width."""

from collections.abc import Mapping
from typing import Any

from pydantic import NonNegativeInt, PositiveInt

from fwrl import CORES
from fwrl.config import Config, validate
from fwrl.cores import CoreConfig

SUM = {"update_rule": "sum", "attention_normaliser": True, "normalise": "none"}
# What differs from the delta rule with its defaults.
FAST_WEIGHTS: dict[str, dict[str, Any]] = {
    "delta, silu": {},
    "delta, dpfp": {"feature_map": "dpfp"},
    "sum, elu + 1": SUM | {"feature_map": "elu_plus_one"},
    "sum, dpfp": SUM | {"feature_map": "dpfp"},
    "sum, favor": SUM | {"feature_map": "favor"},
    "gated sum, silu": {"update_rule": "gated_sum"},
    "gated delta, silu": {"update_rule": "gated_delta"},
    "kda, silu": {"update_rule": "kda"},
}
# Sums of keys of length one, whose reads are scaled: stronger than those above where nothing is
# rewritten.
UNIT_SUMS: dict[str, dict[str, Any]] = {
    "sum, silu": {"update_rule": "sum", "output_norm": "rms"},
    "sum, identity": {"update_rule": "sum", "feature_map": "identity", "output_norm": "rms"},
}
# Every core once, fast weights with several rules and maps.
EVERY_CORE = (*FAST_WEIGHTS, *(kind for kind in CORES if kind != "fast_weight"))
# Every memory by its name in the figure: kind, and what differs from its defaults.
MEMORIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    name: ("fast_weight", values) for name, values in (FAST_WEIGHTS | UNIT_SUMS).items()
} | {kind: (kind, {}) for kind in CORES if kind != "fast_weight"}
# Of memories whose size does not follow the width by itself: what of it each setting is.
SHARE_OF_WIDTH: dict[str, dict[str, float]] = {
    "fast_weight_memory": {"memory_size": 1 / 4},
    "ffm": {"memory_size": 1 / 2},
    "stable_hadamard": {"memory_size": 1 / 2},
}


class FastWeightSizes(Config):
    """What all fast weights share, so that those of equal sizes can be compared."""

    heads: PositiveInt = 4
    """Heads, each with fast weights of its own; a divisor of the width unless sizes are given."""
    key_features: PositiveInt | None = None
    """Of each head, after the feature map; None: what the map makes of the width divided by the
    heads, which is more for dpfp and favor than for the others."""
    value_size: PositiveInt | None = None
    """Of each head; None: the width divided by the heads."""
    short_convolution: NonNegativeInt = 0
    """Times that the convolution of queries, keys and values spans; a key and a value that are two
    tokens meet only through one, or through a layer below."""


def core_of(memory: str, width: int, sizes: FastWeightSizes) -> CoreConfig:
    """The configuration of a memory in a stack of this width.

    Raises:
        ConfigError: If the sizes do not suit it.
    """
    kind, values = MEMORIES[memory]
    shares = SHARE_OF_WIDTH.get(kind, {})
    fitted: dict[str, Any] = {name: round(share * width) for name, share in shares.items()}
    if kind == "fast_weight":
        fitted = sizes.model_dump(exclude={"key_features"})
        fitted |= _keys(values.get("feature_map", ""), sizes.key_features)
    return validate(CORES[kind], {**values, **fitted}, memory)


def _keys(feature_map: str, features: int | None) -> dict[str, int]:
    """What makes a feature map return this many features."""
    match (feature_map, features):
        case (_, None):
            return {}
        case ("dpfp", count):
            return {"key_size": count // 2}
        case ("favor", count):
            return {"num_features": count}
        case (_, count):
            return {"key_size": count}
