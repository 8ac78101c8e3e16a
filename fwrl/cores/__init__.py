"""The memory cores. A new one is a file beside this one, a line in ``CORES`` and its union."""

from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Field

from fwrl.cores.agalite import AGaLiTeConfig
from fwrl.cores.delta_delta import DeltaDeltaConfig
from fwrl.cores.delta_lstm import DeltaLSTMConfig
from fwrl.cores.delta_mlp import DeltaMLPConfig
from fwrl.cores.delta_rnn import DeltaRNNConfig
from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.cores.fast_weight_memory import FastWeightMemoryConfig
from fwrl.cores.ffm import FFMConfig
from fwrl.cores.gru import GRUConfig
from fwrl.cores.gtrxl import GTrXLConfig
from fwrl.cores.infinite_former import InfiniteFormerConfig
from fwrl.cores.lru import LRUConfig
from fwrl.cores.lstm import LSTMConfig
from fwrl.cores.mesa import MesaConfig
from fwrl.cores.none import NoMemoryConfig
from fwrl.cores.recurrent_delta import RecurrentDeltaConfig
from fwrl.cores.rwkv7 import RWKV7Config
from fwrl.cores.self_referential import SelfReferentialConfig
from fwrl.cores.slow_rnn import SlowRNNConfig
from fwrl.cores.stable_hadamard import StableHadamardConfig
from fwrl.cores.window_attention import WindowAttentionConfig

AnyCoreConfig = (
    AGaLiTeConfig
    | DeltaDeltaConfig
    | DeltaLSTMConfig
    | DeltaMLPConfig
    | DeltaRNNConfig
    | FastWeightConfig
    | FastWeightMemoryConfig
    | FFMConfig
    | GRUConfig
    | GTrXLConfig
    | InfiniteFormerConfig
    | LRUConfig
    | LSTMConfig
    | MesaConfig
    | NoMemoryConfig
    | RecurrentDeltaConfig
    | RWKV7Config
    | SelfReferentialConfig
    | SlowRNNConfig
    | StableHadamardConfig
    | WindowAttentionConfig
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
    "agalite": AGaLiTeConfig,
    "delta_delta": DeltaDeltaConfig,
    "delta_lstm": DeltaLSTMConfig,
    "delta_mlp": DeltaMLPConfig,
    "delta_rnn": DeltaRNNConfig,
    "fast_weight": FastWeightConfig,
    "fast_weight_memory": FastWeightMemoryConfig,
    "ffm": FFMConfig,
    "gru": GRUConfig,
    "gtrxl": GTrXLConfig,
    "infinite_former": InfiniteFormerConfig,
    "lru": LRUConfig,
    "lstm": LSTMConfig,
    "mesa": MesaConfig,
    "none": NoMemoryConfig,
    "recurrent_delta": RecurrentDeltaConfig,
    "rwkv7": RWKV7Config,
    "self_referential": SelfReferentialConfig,
    "slow_rnn": SlowRNNConfig,
    "stable_hadamard": StableHadamardConfig,
    "window_attention": WindowAttentionConfig,
}
