"""Scans alone: whether every kernel equals the reference, how fast each is, and how near the peak.

A scan's useful work is that of the recurrence itself, ``18 K V`` operations for each time and head:
three matrix-vector products or outer products forward and six backward, two operations a number.
A kernel that computes more, as chunked ones do, is not credited for it.
"""

import math
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from fwrl.bench.benchmark import Measurement, Row
from fwrl.bench.speed.settings import Shape, SpeedSettings
from fwrl.bench.speed.timing import Compared, Run, compare, in_turns
from fwrl.kernels import KERNELS, kernel_for, scan
from fwrl.state import FastWeights
from fwrl.update_rules import UPDATE_RULES, Write

# Odd lengths: one time, and just over one and four chunks of sixteen.
ODD_LENGTHS = (1, 17, 65)
# Share of the largest number; the gradient of a decay near zero is a difference of large sums.
TOLERANCE = 5e-4


class Problem(NamedTuple):
    """The inputs of a scan; all but the starts require gradients."""

    rule: str
    state: FastWeights
    query: Float[Tensor, "B T H K"]
    write: Write
    starts: Bool[Tensor, "B T"]
    fresh: FastWeights

    @property
    def leaves(self) -> list[Tensor]:
        """The tensors that get gradients."""
        return [self.state, self.query, self.fresh, *cast(tuple[Tensor, ...], self.write)]


def problem(rule: str, shape: Shape, device: torch.device, density: float, seed: int) -> Problem:
    """Random inputs, scaled as by a layer; ``density`` is the share of starts."""
    streams, times, heads, size = shape
    generator = torch.Generator().manual_seed(seed)

    def random(*axes: int) -> Tensor:
        return torch.randn(*axes, generator=generator)

    def ready(leaf: Tensor) -> Tensor:
        return leaf.to(device).requires_grad_()

    over = (streams, times, heads)
    key, query, removal_key = (F.normalize(random(*over, size), dim=-1) for _ in range(3))
    channels = size if UPDATE_RULES[rule].decay == "feature" else 1
    # decays near 1, as memories have them
    decay = (random(*over, channels) + 3).sigmoid()
    fields = (key, random(*over, size), random(*over, 1).sigmoid(), decay)
    write = Write(
        *(ready(field) for field in (*fields, removal_key, random(*over, size).sigmoid()))
    )
    starts = torch.rand(streams, times, generator=generator) < density
    state, fresh = (ready(random(n, heads, size, size)) for n in (streams, 1))
    return Problem(rule, state, ready(query), write, starts.to(device), fresh)


def kernels_of(rule: str, device: torch.device) -> list[str]:
    """The kernels that know a rule, the reference first."""
    found: list[str] = []
    sequence = torch.zeros(1, 128, 1, 1, device=device)
    for kernel in KERNELS:
        try:
            kernel_for(UPDATE_RULES[rule], sequence, kernel)
        except ValueError:
            continue
        found.append(kernel)
    return sorted(found, key=lambda kernel: kernel != "reference")


def outcome(given: Problem, kernel: str) -> list[Tensor]:
    """Values, the last state, and the gradients of their squares."""
    rule, state, query, write, starts, fresh = given
    values, end = scan(UPDATE_RULES[rule], state, query, write, starts, fresh, kernel)
    loss = values.square().sum() + end.square().sum()
    # a rule ignores the fields that it does not know: their gradients are zeros, or None
    gradients = torch.autograd.grad(loss, given.leaves, allow_unused=True, materialize_grads=True)
    return [values.detach(), end.detach(), *gradients]


def parity_failure(device: torch.device) -> str | None:
    """The first kernel, rule and length that differ from the reference, in words; or None."""
    for rule in UPDATE_RULES:
        reference, *others = kernels_of(rule, device)
        for times in ODD_LENGTHS:
            given = problem(rule, (3, times, 2, 16), device, 0.2, seed=times)
            expected = outcome(given, reference)
            for kernel in others:
                error = max(map(_error, expected, outcome(given, kernel)))
                if not error < TOLERANCE:
                    where = f"kernel {kernel!r}, rule {rule!r}, {times} times"
                    return f"{where}: differs from the reference by {error:.2g}"
    return None


def _error(expected: Tensor, found: Tensor) -> float:
    scale = max(1.0, expected.abs().max().item())
    error = (expected - found).abs().max().item() / scale
    return math.inf if math.isnan(error) else error


def measure_kernels(settings: SpeedSettings, device: torch.device, seed: int) -> Measurement:
    """Every kernel against the reference, forward and backward, rule by rule."""
    rows: list[Row] = []
    for shape in settings.scans:
        for rule in UPDATE_RULES:
            given = problem(rule, shape, device, 1 / settings.episode, seed)
            runs = scans(given)
            if rule == "delta" and device.type == "cuda" and find_spec("fla") is not None:
                runs["flash-linear-attention, without starts"] = _fla(given)
            if len(runs) == 1:
                continue
            times = yield from in_turns(runs, settings, device, rule)
            rows += [
                compare(Compared(f"{rule}, {name}", peer, described(shape), "ms"), ours, theirs)
                for name, ours in times.items()
                for peer, theirs in times.items()
                if name in KERNELS and name != "reference" and _is_peer(peer)
            ]
    return rows


def _is_peer(name: str) -> bool:
    return name == "reference" or name not in KERNELS


def scans(given: Problem) -> dict[str, Run]:
    """A forward and backward pass by each kernel that knows the rule."""

    def by(kernel: str) -> Run:
        return lambda: outcome(given, kernel)

    return {kernel: by(kernel) for kernel in kernels_of(given.rule, given.query.device)}


def _fla(given: Problem) -> Run:
    """A pass of flash-linear-attention: in bfloat16, without starts inside a sequence."""
    rule: Callable[..., tuple[Tensor, Tensor]]
    rule = import_module("fla.ops.delta_rule").chunk_delta_rule
    write = given.write
    assert write.beta is not None
    halves = [
        leaf.detach().bfloat16().requires_grad_()
        for leaf in (given.query, write.key, write.value, write.beta.squeeze(-1))
    ]

    def run() -> None:
        values, end = rule(*halves, scale=1.0, initial_state=given.state, output_final_state=True)
        loss = values.float().square().sum() + end.square().sum()
        torch.autograd.grad(loss, [*halves, given.state])

    return run


def measure_throughput(settings: SpeedSettings, device: torch.device, seed: int) -> Measurement:
    """Useful operations per second of the delta rule's scan, against a large matrix product."""
    rows: list[Row] = []
    size = settings.product
    factor = torch.randn(size, size, device=device)
    for shape in settings.scans:
        given = problem("delta", shape, device, 1 / settings.episode, seed)
        runs: Mapping[str, Run] = {**scans(given), "matrix product": lambda: factor @ factor}
        times = yield from in_turns(runs, settings, device, described(shape))
        peak = times.pop("matrix product")
        streams, steps, heads, head_size = shape
        work = 18.0 * streams * steps * heads * head_size**2
        rows += [
            compare(
                Compared(
                    f"delta, {kernel}", f"product of {size} x {size}", described(shape), "GFLOP/s"
                ),
                seconds,
                peak,
                work,
                2.0 * size**3,
            )
            for kernel, seconds in times.items()
        ]
    return rows


def described(shape: Shape) -> str:
    """A shape in words."""
    streams, times, heads, size = shape
    return f"B {streams}, T {times}, {heads} x {size}"
