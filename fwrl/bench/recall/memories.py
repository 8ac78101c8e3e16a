"""The memories that ``fwrl bench recall`` compares, and how each fits a width."""

from collections.abc import Mapping
from typing import Any

from pydantic import NonNegativeInt, PositiveInt

from fwrl.bench.sequence_model import LINEAR_ATTENTION, core_config
from fwrl.config import Config
from fwrl.cores import CORES, CoreConfig

# Differences from the delta rule with its defaults.
FAST_WEIGHTS: dict[str, dict[str, Any]] = {
    "delta, silu": {},
    "delta, dpfp": {"feature_map": "dpfp"},
    "sum, elu + 1": LINEAR_ATTENTION | {"feature_map": "elu_plus_one"},
    "sum, dpfp": LINEAR_ATTENTION | {"feature_map": "dpfp"},
    "sum, favor": LINEAR_ATTENTION | {"feature_map": "favor"},
    "gated sum, silu": {"update_rule": "gated_sum"},
    "gated delta, silu": {"update_rule": "gated_delta"},
    "kda, silu": {"update_rule": "kda"},
    "gated delta 2, silu": {"update_rule": "gated_delta_2"},
    "efla, silu": {"update_rule": "efla", "normalise": "none"},
}
# Sums of keys of length one, whose reads are scaled: stronger than those above where nothing is
# rewritten.
UNIT_SUMS: dict[str, dict[str, Any]] = {
    "sum, silu": {"update_rule": "sum", "output_norm": "rms"},
    "sum, identity": {"update_rule": "sum", "feature_map": "identity", "output_norm": "rms"},
}
# Every core once, fast weights with several rules and maps.
EVERY_CORE = (*FAST_WEIGHTS, *(kind for kind in CORES if kind != "fast_weight"))
# Every memory by its name in the figure: differences from the defaults of its core.
MEMORIES: Mapping[str, Mapping[str, Any]] = {
    **FAST_WEIGHTS,
    **UNIT_SUMS,
    **{kind: {"kind": kind} for kind in CORES if kind != "fast_weight"},
    "mlstm, convolution": {"kind": "mlstm", "short_convolution": 4},
}
# Sizes, as shares of the width, of memories whose size does not follow the width by default.
SHARE_OF_WIDTH: dict[str, dict[str, float]] = {
    "fast_weight_memory": {"memory_size": 1 / 4},
    "ffm": {"memory_size": 1 / 2},
    "stable_hadamard": {"memory_size": 1 / 2},
}


class FastWeightSizes(Config):
    """Sizes of all fast weights, so that rules and maps are compared at equal sizes."""

    heads: PositiveInt = 4
    """Heads, each with fast weights of its own; a divisor of the width unless sizes are given."""
    key_features: PositiveInt | None = None
    """Features of a head's keys, after the feature map. None: the map's features of width / heads
    numbers, which are more for dpfp and favor than for the others."""
    value_size: PositiveInt | None = None
    """Size of a head's values; None: width / heads."""
    short_convolution: NonNegativeInt = 0
    """Time steps spanned by the convolution of queries, keys and values. A key and a value that are
    two tokens meet only through a convolution, or through a layer below."""


def core_of(memory: str, width: int, sizes: FastWeightSizes) -> CoreConfig:
    """The configuration of a memory in a stack of this width.

    Raises:
        ConfigError: If the sizes do not suit it.
    """
    values = MEMORIES[memory]
    if "kind" in values:
        shares = SHARE_OF_WIDTH.get(values["kind"], {})
        fitted: dict[str, Any] = {name: round(share * width) for name, share in shares.items()}
    else:
        fitted = sizes.model_dump(exclude={"key_features"})
        fitted |= _keys(values.get("feature_map", ""), sizes.key_features)
    return core_config(memory, values, fitted)


def _keys(feature_map: str, features: int | None) -> dict[str, int]:
    """The option by which a feature map returns this many features."""
    match (feature_map, features):
        case (_, None):
            return {}
        case ("dpfp", count):
            return {"key_size": count // 2}
        case ("favor", count):
            return {"num_features": count}
        case (_, count):
            return {"key_size": count}
