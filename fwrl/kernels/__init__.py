"""Scans over time: the ``reference`` defines them, faster kernels equal it.

``scan`` takes the fastest kernel that serves its inputs; ``use_kernel`` forces one. ``kernel_for``
says which one runs, and so does a line of the logger ``fwrl.kernels`` at level DEBUG.
"""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.config import nearest
from fwrl.kernels import reference
from fwrl.kernels.chunked import channelwise
from fwrl.kernels.chunked import gradient as chunked_gradient
from fwrl.kernels.native import scan as native
from fwrl.kernels.native import unit_silu as unit
from fwrl.kernels.native.library import library, served
from fwrl.kernels.triton import on_gpu
from fwrl.state import FastWeights, in_one_precision, may_look, without_autocast
from fwrl.update_rules import UPDATE_RULES, Rule, ScanInputs, UpdateRule, Write, read, rule_of

logger = logging.getLogger("fwrl.kernels")

Scan = Callable[[Rule, ScanInputs], tuple[Tensor, Tensor]]


def _chunked(rule: Rule, inputs: ScanInputs) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    """The scan in chunks, and by reference where a chunk may have let an undefined past through."""
    form = channelwise if rule.decay == "feature" else chunked_gradient
    if not may_look(inputs.query):
        return form.scan_apart(rule, inputs)
    values, end = form.scan(rule, inputs)
    if not values.detach().sum().isfinite():
        # other episodes are excluded by products with zero, which keep a NaN
        logger.debug("%s: not finite, again by reference", rule.apply.__name__)
        return reference.scan(rule, inputs)
    return values, end


def _triton(rule: Rule, inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """The scan of a module that needs the package triton: imported when it runs."""
    return import_module("fwrl.kernels.triton.scan").scan(rule, inputs)


KERNELS: dict[str, Scan] = {
    "reference": reference.scan,
    "chunked": _chunked,
    "native": native.scan,
    "triton": _triton,
}

_forced: ContextVar[str | None] = ContextVar("forced_kernel", default=None)


@contextmanager
def use_kernel(name: str) -> Generator[None, None, None]:
    """Every scan inside the block runs on this kernel, whatever a configuration says."""
    _check(name)
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def kernel_for(rule: UpdateRule, query: Float[Tensor, "B T H K"], kernel: str = "auto") -> str:
    """The name of the kernel that scans such a sequence under this rule.

    Args:
        rule: One of ``UPDATE_RULES``, or any other: those are scanned by the reference.
        query: The queries of the sequence; their length, precision and device count.
        kernel: The caller's wish; ``auto`` leaves the choice open, and never takes ``triton``,
            whose tests have only run in Triton's interpreter so far.

    Raises:
        ValueError: For a kernel that does not exist, or cannot do it.
    """
    if torch.compiler.is_exporting():
        # an exported program cannot look at numbers to decide, as faster kernels do
        return "reference"
    rule, name = rule_of(rule), _forced.get() or kernel
    if name == "auto":
        if native.serves(rule, query):
            return "native"
        return "chunked" if rule.form and query.shape[1] > 1 else "reference"
    _check(name)
    if name == "triton":
        on_gpu.check(rule, query)
    if name == "chunked" and not rule.form:
        raise ValueError(f"kernel 'chunked' has no form of {rule.apply.__name__}; use 'reference'")
    if name == "native" and not native.serves(rule, query):
        known = (each.apply.__name__ for each in UPDATE_RULES.values() if each.form)
        raise ValueError(
            f"kernel 'native' ({library().about}) scans float32 on CPUs under "
            f"{', '.join(known)}, not {query.dtype} on {query.device.type} under "
            f"{rule.apply.__name__}; use 'auto'"
        )
    return name


def scan(
    rule: UpdateRule,
    state: FastWeights,
    query: Float[Tensor, "B T H K"],
    write: Write,
    starts: Bool[Tensor, "B T"],
    fresh: Float[Tensor, "#B H K V"] | None = None,
    kernel: str = "auto",
) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    """The values that the queries read, each after the write of its own time, and the last state.

    Everything is computed in float32, or in float64 if the inputs are, also under autocast.

    Args:
        rule: One of ``UPDATE_RULES``, or any other pure function of one time.
        state: What the streams had written before; left as it is.
        query: Where to read.
        write: What to write, at each of T times.
        starts: Where True, ``fresh`` replaces the state before the write.
        fresh: The state that an episode begins with, for one or for each stream; None means zeros.
        kernel: One of ``KERNELS``, or ``auto``.
    """
    rule = rule_of(rule)
    inputs = in_one_precision(ScanInputs(state, query, write, starts, fresh), query)
    name = kernel_for(rule, inputs.query, kernel)
    logger.debug("%s over %d times: %s", rule.apply.__name__, query.shape[1], name)
    with without_autocast(query.device):
        return KERNELS[name](rule, inputs)


def scan_step(
    rule: UpdateRule, state: FastWeights, query: Float[Tensor, "B H K"], write: Write
) -> tuple[Float[Tensor, "B H V"], FastWeights]:
    """``scan`` over one time that starts nothing: the acting path."""
    rule = rule_of(rule)
    state, query, write = in_one_precision((state, query, write), query)
    if acts_natively(rule, query):
        return native.step(rule, state, query, write)
    with without_autocast(query.device):
        state = rule(state, write)
        return read(state, query), state


def unit_silu(x: Float[Tensor, "*B K"], kernel: str = "auto") -> Float[Tensor, "*B K"]:
    """The features of ``silu`` at unit length, by the kernel that scans would use."""
    return unit.unit_silu(x, native=(_forced.get() or kernel) in ("auto", "native"))


def acts_natively(rule: UpdateRule, x: Tensor, kernel: str = "auto") -> bool:
    """Whether one time of such tensors is computed by the native kernel: never with gradients."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return (_forced.get() or kernel) in ("auto", "native") and native.serves(rule_of(rule), x)


def scans_projections(
    rule: UpdateRule, x: Float[Tensor, "B T D"], state: FastWeights, kernel: str = "auto"
) -> bool:
    """Whether a sequence is scanned from its projections on, as the native kernel can.

    Args:
        rule: One of ``UPDATE_RULES`` or any other.
        x: What is projected.
        state: The fast weights before it.
        kernel: The caller's wish.
    """
    if torch.compiler.is_exporting() or torch.is_autocast_enabled(x.device.type):
        return False
    rule = rule_of(rule)
    wanted = (_forced.get() or kernel) in ("auto", "native")
    chosen = wanted and native.serves(rule, x) and served(state)
    if chosen:
        logger.debug("%s over %d times: native", rule.apply.__name__, x.shape[1])
    return chosen


def recurs_natively(*tensors: Tensor) -> bool:
    """Whether a recurrence that has a form in C, and no other, runs on it with such tensors."""
    return _forced.get() in (None, "native") and served(*tensors)


def steps_natively(*tensors: Tensor) -> bool:
    """The same for one time of more than a recurrence: without gradients, in full precision."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return recurs_natively(*tensors) and not torch.is_autocast_enabled("cpu")


def learns_natively(*tensors: Tensor) -> bool:
    """The same for sequences that have gradients."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    wanted = any(each.requires_grad for each in tensors)
    return wanted and recurs_natively(*tensors) and not torch.is_autocast_enabled("cpu")


def _check(name: str) -> None:
    if name not in KERNELS:
        raise ValueError(f"kernel is {name!r}; {nearest(name, KERNELS)}")
