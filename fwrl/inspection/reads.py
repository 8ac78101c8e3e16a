"""The memories of a core that inspection looks at, and what a recall map of them is."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.core import MemoryCore, Reads
from fwrl.state import at_least_float32
from fwrl.update_rules import map_write, rule_of

# True of every map.
GIVEN = "exact, given the keys, queries, write strengths and decays as they were"


@torch.no_grad()
def reads_of(
    core: MemoryCore[Any], x: Float[Tensor, "B T D"], state: Any, starts: Bool[Tensor, "B T"]
) -> list[Reads]:
    """The memories that ``core.unroll`` would read, all in one precision: float32 at least."""
    return [_in_one_precision(read) for read in core.reads(x, state, starts)]


def _in_one_precision(reads: Reads) -> Reads:
    query = at_least_float32(reads.query)
    dtype = query.dtype
    return reads._replace(
        state=reads.state.to(dtype),
        query=query,
        write=map_write(lambda field: field.to(dtype), reads.write),
        fresh=None if reads.fresh is None else reads.fresh.to(dtype),
    )


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
    fields = {
        name: torch.cat([getattr(piece.write, name) for piece in pieces], dim=1)
        for name, field in first.write._asdict().items()
        if field is not None
    }
    return first._replace(
        query=torch.cat([piece.query for piece in pieces], dim=1),
        write=first.write._replace(**fields),
        starts=torch.cat([piece.starts for piece in pieces], dim=1),
    )
