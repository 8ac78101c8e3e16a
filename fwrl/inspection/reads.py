"""The memories of a core that inspection looks at, and what a recall map of them is."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.core import MemoryCore, Reads
from fwrl.state import in_one_precision, map_tensors
from fwrl.update_rules import ScanInputs, rule_of

# True of every map.
GIVEN = "exact, given the keys, queries, write strengths and decays as they were"


@torch.no_grad()
def reads_of(
    core: MemoryCore[Any], x: Float[Tensor, "B T D"], state: Any, starts: Bool[Tensor, "B T"]
) -> list[Reads]:
    """The memories that ``core.unroll`` would read, all in one precision: float32 at least."""
    return [
        read._replace(inputs=in_one_precision(read.inputs, read.inputs.query))
        for read in core.reads(x, state, starts)
    ]


def is_linear(reads: Reads) -> bool:
    """Whether the reads are sums over what was written, so that there is a recall map."""
    return rule_of(reads.rule).linear


def remark(core: MemoryCore[Any], reads: Sequence[Reads]) -> str:
    """In words: what a recall map of the core is, or why there is none."""
    nonlinear = dict.fromkeys(
        rule_of(each.rule).apply.__name__ for each in reads if not is_linear(each)
    )
    reasons = [f"after {n} the weights are no linear function of the values" for n in nonlinear]
    exact = bool(reads) and not reasons
    return "; ".join(filter(None, [GIVEN if exact else "no exact map", *reasons, core.remark]))


def join(pieces: Sequence[Reads]) -> Reads:
    """One memory over pieces of a sequence that follow one another."""
    first = pieces[0]
    state, *_, fresh = first.inputs
    in_time = [piece.inputs[1:4] for piece in pieces]
    query, write, starts = map_tensors(lambda *parts: torch.cat(parts, dim=1), *in_time)
    return first._replace(inputs=ScanInputs(state, query, write, starts, fresh))
