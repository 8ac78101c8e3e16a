"""The memory cores. A new one is a file beside this one, and a line in ``CORES``."""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Union, cast

from pydantic import BeforeValidator, Field

from fwrl.config import one_or_each
from fwrl.core import MemoryCoreConfig


def _of(module: str, name: str) -> type[MemoryCoreConfig]:
    """The configuration of this name, from a module beside this one."""
    return getattr(import_module(f"{__name__}.{module}"), name)


CORES: dict[str, type[MemoryCoreConfig]] = {
    "agalite": _of("agalite", "AGaLiTeConfig"),
    "delta_delta": _of("delta_delta", "DeltaDeltaConfig"),
    "delta_lstm": _of("delta_lstm", "DeltaLSTMConfig"),
    "delta_mlp": _of("delta_mlp", "DeltaMLPConfig"),
    "delta_rnn": _of("delta_rnn", "DeltaRNNConfig"),
    "fast_weight": _of("fast_weight", "FastWeightConfig"),
    "fast_weight_memory": _of("fast_weight_memory", "FastWeightMemoryConfig"),
    "ffm": _of("ffm", "FFMConfig"),
    "gru": _of("gru", "GRUConfig"),
    "gtrxl": _of("gtrxl", "GTrXLConfig"),
    "hybrid": _of("hybrid", "HybridConfig"),
    "infinite_former": _of("infinite_former", "InfiniteFormerConfig"),
    "lru": _of("lru", "LRUConfig"),
    "lstm": _of("lstm", "LSTMConfig"),
    "mamba2": _of("mamba2", "Mamba2Config"),
    "mesa": _of("mesa", "MesaConfig"),
    "mingru": _of("mingru", "MinGRUConfig"),
    "mlstm": _of("mlstm", "MLSTMConfig"),
    "none": _of("none", "NoMemoryConfig"),
    "recurrent_delta": _of("recurrent_delta", "RecurrentDeltaConfig"),
    "rwkv7": _of("rwkv7", "RWKV7Config"),
    "s5": _of("s5", "S5Config"),
    "self_referential": _of("self_referential", "SelfReferentialConfig"),
    "slow_rnn": _of("slow_rnn", "SlowRNNConfig"),
    "slstm": _of("slstm", "SLSTMConfig"),
    "stable_hadamard": _of("stable_hadamard", "StableHadamardConfig"),
    "window_attention": _of("window_attention", "WindowAttentionConfig"),
}


def _fast_weight_unless_said(value: Any) -> Any:
    """A mapping without ``kind`` means the core that this library is about."""
    if isinstance(value, Mapping) and "kind" not in value:
        return {"kind": "fast_weight", **cast(Mapping[str, Any], value)}
    return value


if TYPE_CHECKING:
    CoreConfig = MemoryCoreConfig
    CoresConfig = MemoryCoreConfig | tuple[MemoryCoreConfig, ...]
else:
    # the configuration of any core, which ``kind`` tells apart
    CoreConfig = Annotated[
        Union[tuple(CORES.values())],  # noqa: UP007
        Field(discriminator="kind"),
        BeforeValidator(_fast_weight_unless_said),
    ]
    # that of all layers of a stack, or of each
    CoresConfig = one_or_each(CoreConfig)


def kinds_of(core: CoresConfig) -> tuple[str, ...]:
    """The kind of the memory of all layers, or that of each."""
    each = (core,) if isinstance(core, MemoryCoreConfig) else core
    return tuple(one.kind for one in each)


def name_of(core: CoresConfig) -> str:
    """The kind, or those of the layers joined by ``+``, for people and results."""
    return "+".join(kinds_of(core))
