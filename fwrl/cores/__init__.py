"""The memory cores. A new one is a file beside this one, a line in ``CORES`` and its union."""

from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Field

from fwrl.cores.agalite import AGaLiTeConfig
from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.cores.ffm import FFMConfig
from fwrl.cores.gru import GRUConfig
from fwrl.cores.lru import LRUConfig
from fwrl.cores.lstm import LSTMConfig
from fwrl.cores.none import NoMemoryConfig
from fwrl.cores.stable_hadamard import StableHadamardConfig

AnyCoreConfig = (
    AGaLiTeConfig
    | FastWeightConfig
    | FFMConfig
    | GRUConfig
    | LRUConfig
    | LSTMConfig
    | NoMemoryConfig
    | StableHadamardConfig
)  # fmt: skip


def _fast_weight_unless_said(value: Any) -> Any:
    """A mapping without ``kind`` means the core that this library is about."""
    if isinstance(value, Mapping) and "kind" not in value:
        return {"kind": "fast_weight", **cast(Mapping[str, Any], value)}
    return value


# The configuration of one core; ``kind`` says of which.
CoreConfig = Annotated[
    AnyCoreConfig, Field(discriminator="kind"), BeforeValidator(_fast_weight_unless_said)
]

CORES: dict[str, type[AnyCoreConfig]] = {
    "fast_weight": FastWeightConfig,
    "lstm": LSTMConfig,
    "gru": GRUConfig,
    "none": NoMemoryConfig,
    "lru": LRUConfig,
    "ffm": FFMConfig,
    "stable_hadamard": StableHadamardConfig,
    "agalite": AGaLiTeConfig,
}
