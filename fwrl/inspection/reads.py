"""Which of the scans of a core read what it puts out, and what a map of them leaves out."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from fwrl.core import MemoryCore
from fwrl.cores.agalite import AGaLiTe
from fwrl.cores.delta_delta import DeltaDelta
from fwrl.cores.delta_mlp import DeltaMLP
from fwrl.cores.fast_weight import FastWeight
from fwrl.cores.fast_weight_memory import FastWeightMemory
from fwrl.cores.ffm import FFM
from fwrl.cores.gru import GRU
from fwrl.cores.gtrxl import GTrXL
from fwrl.cores.infinite_former import InfiniteFormer
from fwrl.cores.lru import LRU
from fwrl.cores.lstm import LSTM
from fwrl.cores.mesa import Mesa
from fwrl.cores.none import NoMemory
from fwrl.cores.parts.fast_recurrence import FastRecurrence
from fwrl.cores.recurrent_delta import RecurrentDelta
from fwrl.cores.rwkv7 import RWKV7
from fwrl.cores.self_referential import SelfReferential
from fwrl.cores.slow_rnn import SlowRNN
from fwrl.cores.stable_hadamard import StableHadamard
from fwrl.cores.window_attention import WindowAttention
from fwrl.kernels import Scanned
from fwrl.update_rules import Write

# What is true of every map.
GIVEN = "exact, given the keys, queries, write strengths and decays as they were"
# What the map of such a core says beside that, or why it has none.
REMARKS: dict[type[MemoryCore[Any]], str] = {
    DeltaDelta: "the first memory makes keys, values and queries of the second, so that an input "
    "can work through both",
    DeltaMLP: "norms and feature maps stand between the layers, so that a share in one of them is "
    "no share in the output",
    FastRecurrence: "what is read recurrently is asked for by the last output, and gates or a "
    "softmax stand between the reads and the output",
    Mesa: "the query is the solution of the regression, which depends on all keys before it",
    RecurrentDelta: "the last read has its part in the next keys, values and queries, which the "
    "map takes as they were",
    RWKV7: "a norm of each head follows",
    SlowRNN: "an LSTM makes keys, values and queries; what it remembers by itself is not shown",
    AGaLiTe: "it forgets element by element in both directions of its matrix",
    FastWeightMemory: "it shortens its matrix after a write, and chains its reads",
    FFM: "its traces have no keys and queries",
    GRU: "its gates multiply what it remembers by functions of what it remembers",
    GTrXL: "it keeps its last inputs, and attends to them by a softmax inside a gated block",
    InfiniteFormer: "it attends to a window and to a curve through all that has left it",
    LRU: "its numbers have no keys and queries",
    LSTM: "its gates multiply what it remembers by functions of what it remembers",
    NoMemory: "it remembers nothing",
    SelfReferential: "what it writes is read from the matrix itself, not from the input",
    StableHadamard: "it strengthens and weakens each weight by a factor of its own",
    WindowAttention: "it attends to a window of keys by a softmax",
}


class Reads(NamedTuple):
    """What one memory of a core was given in a sequence, and what was read from it."""

    name: str
    scanned: Scanned
    # of each time
    writes: int = 1

    @property
    def exact(self) -> bool:
        """Whether there is a recall map."""
        return self.scanned.rule.linear


def reads_of(
    core: MemoryCore[Any], kept: Sequence[Scanned], starts: Bool[Tensor, "B T"]
) -> list[Reads]:
    """The memories of a core that are written and read by scans, in the order of the reads.

    Args:
        core: Any; many have none.
        kept: By ``keep_scans``, while the core was unrolled once.
        starts: With which it was.
    """
    match core:
        case FastWeight():
            # what normalises the delta rule sums keys before and after it
            scanned = kept[1] if len(kept) == 3 else kept[0]
            values = _columns(scanned, slice(core.value_size))
            return [Reads("fast weights", values, core.writes)]
        case Mesa():
            # the scans before the last are those of the solver
            return [Reads("regression", _columns(kept[-1], slice(core.size, None)))]
        case DeltaDelta():
            return _named(["programming memory", "programmed memory"], kept)
        case DeltaMLP():
            blocks = range(1, core.blocks + 1)
            return _named([f"block {b}, layer {i}" for b in blocks for i in (1, 2)], kept)
        case FastRecurrence():
            joined = [kept[0], join(kept[1:], starts)]
            return _named(["feed-forward memory", "recurrent memory"], joined)
        case RecurrentDelta():
            return [Reads("fast weights", join(kept, starts))]
        case RWKV7() | SlowRNN():
            return [Reads("fast weights", kept[0])]
        case _:
            return []


def remark(core: MemoryCore[Any], reads: Iterable[Reads]) -> str:
    """In words: what a recall map of the core is, or why there is none."""
    reads = list(reads)
    reasons = [REMARKS[type(core)]] if type(core) in REMARKS else []
    reasons += _of_fast_weight(core) if isinstance(core, FastWeight) else []
    exact = bool(reads) and all(read.exact for read in reads)
    return "; ".join([GIVEN if exact else "no exact map", *reasons])


def _of_fast_weight(core: FastWeight) -> list[str]:
    said: list[str] = []
    if not core.rule.linear:
        said.append(
            f"after {core.rule.apply.__name__} the weights are no linear function of the values"
        )
    if core.normalised:
        said.append("what reads are divided by is taken as it was")
    if core.convolution is not None:
        said.append("a short convolution mixes the last inputs before they are written or asked")
    if core.writes > 1:
        said.append(f"the {core.writes} writes of a time count as one")
    if core.normed:
        said.append("a norm of each head follows")
    return said


def _named(names: Sequence[str], kept: Sequence[Scanned]) -> list[Reads]:
    return [Reads(name, scanned) for name, scanned in zip(names, kept, strict=True)]


def _columns(scanned: Scanned, columns: slice) -> Scanned:
    """The same scan of some of the columns of the fast weights: they never meet."""
    fresh = scanned.fresh
    return scanned._replace(
        state=scanned.state[..., columns],
        write=scanned.write._replace(value=scanned.write.value[..., columns]),
        fresh=None if fresh is None else fresh[..., columns],
        values=scanned.values[..., columns],
    )


def join(steps: Sequence[Scanned], starts: Bool[Tensor, "B T"]) -> Scanned:
    """Scans that followed one another, such as the steps of a recurrence, as one.

    Args:
        steps: The state of the first is that of all.
        starts: Of all their times; where a recurrence starts it begins with zeros.
    """
    fields = {
        name: torch.cat([getattr(step.write, name) for step in steps], dim=1)
        for name, field in steps[0].write._asdict().items()
        if field is not None
    }
    return steps[0]._replace(
        query=torch.cat([step.query for step in steps], dim=1),
        write=Write(**fields),
        starts=starts,
        values=torch.cat([step.values for step in steps], dim=1),
    )
