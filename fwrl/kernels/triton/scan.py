"""The scan as two GPU kernels: one time after another, with the fast weights in registers.

One program for each stream, head and block of value columns. The chunked form launches many small
products; this launches one kernel each way. A start selects, so nothing undefined passes it.

The forward pass keeps the fast weights of every ``SPAN`` times; the backward pass computes those
between again, a span at a time, into a scratch memory. Sums over value columns are added up outside
in a fixed order: no result is left to chance.

This module needs ``triton``; nothing imports it before it is to run.
"""

from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from fwrl.kernels.chunked import scan as chunked
from fwrl.kernels.triton import kernels as triton_kernels
from fwrl.state import FastWeights
from fwrl.update_rules import Rule, ScanInputs

# Times between two kept states.
SPAN = 16

# Numbers of the fast weights that one program holds, at most, and columns of them, at most.
STATE_SIZE = 2048
MAX_COLUMNS = 32

WARPS = 4

# As many registers as a thread can have: left to itself, the assembler spills a few numbers into
# slow memory where one more program then fits beside the others.
REGISTERS = 255


class Grid(NamedTuple):
    """How one scan is cut into programs."""

    programs: tuple[int, int]
    # the sizes that the programs are compiled for, rounded up to powers of two
    rows: int
    columns: int


def grid_of(state: FastWeights) -> Grid:
    """As many columns per program as fit beside each other in its registers."""
    streams, heads, key_size, value_size = state.shape
    rows = _power_of_2(key_size)
    columns = min(_power_of_2(value_size), MAX_COLUMNS, max(1, STATE_SIZE // rows))
    return Grid((streams * heads, -(-value_size // columns)), rows, columns)


def scan(rule: Rule, inputs: ScanInputs) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    """The reference scan up to rounding, for the rules that ``chunked`` computes; float32."""
    state, query, write, starts, fresh = inputs
    key, value, beta, decay, *_ = chunked.prepared(rule, write)
    given = (query, key, value, beta, decay, state, fresh)
    keeps = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given)
    return cast(tuple[Tensor, Tensor], _Scan.apply(rule.form == "error", keeps, starts, *given))


class _Scan(torch.autograd.Function):
    """The two kernels."""

    @override
    @staticmethod
    def forward(
        ctx: Any, removes: bool, keeps: bool, starts: Bool[Tensor, "B T"], *inputs: Any
    ) -> tuple[Tensor, Tensor]:
        given: list[Any] = [None if x is None else x.contiguous() for x in inputs]
        query, _, value, *_, state, fresh = given
        starts = starts.contiguous().view(torch.uint8)
        streams, heads, *sizes = state.shape
        spans = -(-query.shape[1] // SPAN) if keeps else 0
        kept = state.new_empty(streams, heads, spans, *sizes)
        values, end = torch.empty_like(value), torch.empty_like(state)
        pointers = [state if x is None else x for x in given]
        grid = grid_of(state)
        cast(Any, triton_kernels.forward)[grid.programs](
            query, tuple(pointers[1:5]), tuple(pointers[5:]), starts, values, end, kept,
            query.shape[1], heads, _shares(state, fresh), KEEPS=keeps,
            **_compiled_for(grid, removes, given),
        )  # fmt: skip
        ctx.removes = removes
        ctx.save_for_backward(starts, kept, *given)
        return values, end

    @override
    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        starts, kept, *saved = ctx.saved_tensors
        given: list[Any] = saved
        query, _, value, *_, state, fresh = given
        grid = grid_of(state)
        found = [None if x is None else x.new_empty(grid.programs[1], *x.shape) for x in given[:5]]
        found[2] = torch.empty_like(value)
        to_state, to_fresh = torch.empty_like(state), torch.empty_like(state)
        scratch = state.new_empty(*state.shape[:2], SPAN, *state.shape[2:])
        write = tuple(state if x is None else x for x in given[1:5])
        cast(Any, triton_kernels.backward)[grid.programs](
            query, write, state if fresh is None else fresh, starts, kept, scratch,
            tuple(x.contiguous() for x in grad_outputs),
            tuple(state if x is None else x for x in found), (to_state, to_fresh),
            query.shape[1], state.shape[1], _shares(state, fresh),
            **_compiled_for(grid, ctx.removes, given),
        )  # fmt: skip
        # always in the same order, unlike additions by atomics
        summed = [x if x is None or x is found[2] else x.sum(dim=0) for x in found]
        shared = None if fresh is None else to_fresh.sum_to_size(fresh.shape)
        return None, None, None, *summed, to_state, shared


def _power_of_2(size: int) -> int:
    """The next one, or the size itself."""
    return 1 << (size - 1).bit_length()


def _compiled_for(grid: Grid, removes: bool, given: list[Tensor | None]) -> dict[str, Any]:
    """The arguments that make another program of a kernel."""
    _, _, _, beta, decay, state, fresh = given
    assert state is not None, "there is always a state"
    return {
        "K": state.shape[2],
        "V": state.shape[3],
        "BK": grid.rows,
        "BV": grid.columns,
        "SPAN": SPAN,
        "REMOVES": removes,
        "SCALED": beta is not None,
        "DECAYS": decay is not None,
        "FRESH": fresh is not None,
        "num_warps": WARPS,
        "maxnreg": REGISTERS,
    }


def _shares(state: FastWeights, fresh: Tensor | None) -> int:
    """After how many programs the fresh states begin anew."""
    return state.shape[1] * (1 if fresh is None else fresh.shape[0])
