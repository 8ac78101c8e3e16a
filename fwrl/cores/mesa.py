"""The mesa layer: each read is the prediction of a ridge regression on all earlier writes."""

import math
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fwrl.config import Count, head_size
from fwrl.core import About, MemoryCore, MemoryCoreConfig, Reads
from fwrl.cores.parts.layers import Decay
from fwrl.feature_maps import FeatureMap, FeatureOptions
from fwrl.kernels import scan
from fwrl.state import at_least_float32, without_autocast
from fwrl.update_rules import ScanInputs, Write, decayed_sum_rule, read

# The ridge never becomes smaller: it bounds what a read can be, and how many iterations it takes.
MIN_RIDGE = 0.25


class MesaConfig(MemoryCoreConfig):
    """Ridge regression by conjugate gradients (von Oswald et al. 2023, 2025).

    Note:
        Left out of the published layer: the short convolution before it, and the norm and the gate
        behind it.
    """

    about: ClassVar[About] = About(
        update="G <- a G + b k k, W <- a W + b k v, y = (G + L)^-1 q W",
        cost="4D^2 + HK(2K + 3V) + IHK^2, I iterations",
        parallel=True,
        source="von Oswald et al. 2023; von Oswald et al. 2025",
    )
    kind: Literal["mesa"] = "mesa"
    heads: Count = 4
    """Heads, each with an equal part of the input size for its keys and for its values."""
    iterations: Count = 12
    """Iterations of conjugate gradients at each read; as many as a head has keys are always enough.
    The default solves to a ten-thousandth for heads of size 32 under the ridge of the beginning;
    18 do so under the smallest ridge that can be learned."""

    @override
    def build(self, input_size: int) -> "Mesa":
        return Mesa(input_size, self)


class Mesa(MemoryCore[Tensor]):
    """State: fast weights ``[B, H, K, W]`` that hold at each key this key and its value, W = K + V.

    The first K columns are the sum of ``k k``, the others that of ``k v``.
    """

    remark = "the query is the solution of the regression, which depends on all keys before it"

    def __init__(self, input_size: int, config: MesaConfig) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.heads, self.size = config.heads, head_size(config.kind, input_size, config.heads)
        self.iterations = min(config.iterations, self.size)
        self.feature_map = FeatureMap("silu", FeatureOptions(self.size), "l2")
        # queries, keys, values: one product
        self.project = nn.Linear(input_size, 3 * input_size, bias=False)
        self.beta = nn.Linear(input_size, self.heads)
        self.decay = Decay(input_size, self.heads)
        # the ridge begins at 1
        begin = math.log(math.expm1(1.0 - MIN_RIDGE))
        self.raw_ridge = nn.Parameter(torch.full((self.heads, self.size), begin))
        self.output = nn.Linear(input_size, input_size, bias=False)

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> Tensor:
        return torch.zeros(batch_size, self.heads, self.size, 2 * self.size, device=device)

    @override
    def step(self, x: Float[Tensor, "B D"], state: Tensor) -> tuple[Float[Tensor, "B E"], Tensor]:
        query, write = self._slow(x)
        values, state = mesa_step(state, query, write, self.ridge(), self.iterations)
        return self.output(values.flatten(start_dim=-2)), state

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: Tensor, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], Tensor]:
        inputs = ScanInputs(state, *self._slow(x), starts)
        values, state = mesa_scan(inputs, self.ridge(), self.iterations)
        return self.output(values.flatten(start_dim=-2)), state

    @override
    def reads(
        self, x: Float[Tensor, "B T D"], state: Tensor, starts: Bool[Tensor, "B T"]
    ) -> list[Reads]:
        inputs = ScanInputs(state, *self._slow(x), starts)
        query = coefficients(inputs, self.ridge(), self.iterations)
        inputs = inputs._replace(state=state[..., self.size :], query=query)
        return [Reads("regression", decayed_sum_rule, inputs)]

    def ridge(self) -> Float[Tensor, "H K"]:
        """The ridge, added to the diagonal: learned for each feature, above ``MIN_RIDGE``."""
        return F.softplus(at_least_float32(self.raw_ridge)) + MIN_RIDGE

    def _slow(self, x: Float[Tensor, "*BT D"]) -> tuple[Float[Tensor, "*BT H K"], Write]:
        """The queries and the writes."""
        parts = at_least_float32(self.project(x)).unflatten(-1, (3, self.heads, self.size))
        query, key, value = parts.unbind(-3)
        beta = at_least_float32(self.beta(x)).sigmoid().unsqueeze(-1)
        decay = self.decay(x)
        return self.feature_map(query), Write(self.feature_map(key), value, beta, decay)


def mesa_scan(
    inputs: ScanInputs, ridge: Float[Tensor, "H K"], iterations: int
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H K W"]]:
    """Write and read at T times; every iteration is one scan, parallel over time.

    Args:
        inputs: The state holds the sums of ``k k`` and, in the columns after these, of ``k v``. The
            queries are the keys whose values are predicted, from the pairs written up to then.
        ridge: Added to the diagonal of the sum of ``k k``; positive.
        iterations: Of conjugate gradients.
    """
    query = coefficients(inputs, ridge, iterations)
    inputs = inputs._replace(query=query, write=_with_key(inputs.write))
    values, state = scan(decayed_sum_rule, *inputs)
    return values[..., query.shape[-1] :], state


def coefficients(
    inputs: ScanInputs, ridge: Float[Tensor, "H K"], iterations: int
) -> Float[Tensor, "B T H K"]:
    """The solutions ``(G + L)^-1 q`` at T times, by which ``mesa_scan`` reads the values."""
    state, query, write, starts, _ = inputs
    key_sum, keys = state[..., : query.shape[-1]], write._replace(value=write.key)

    def product(x: Tensor) -> Tensor:
        return scan(decayed_sum_rule, key_sum, x, keys, starts)[0] + ridge * x

    return solve(product, query, iterations)


def mesa_step(
    state: Float[Tensor, "B H K W"],
    query: Float[Tensor, "B H K"],
    write: Write,
    ridge: Float[Tensor, "H K"],
    iterations: int,
) -> tuple[Float[Tensor, "B H V"], Float[Tensor, "B H K W"]]:
    """``mesa_scan`` over one time that starts nothing."""
    size = query.shape[-1]
    with without_autocast(query.device):
        state = decayed_sum_rule(state.to(query.dtype), _with_key(write))

        def product(x: Tensor) -> Tensor:
            return read(state[..., :size], x) + ridge * x

        return read(state[..., size:], solve(product, query, iterations)), state


def _with_key(write: Write) -> Write:
    return write._replace(value=torch.cat([write.key, write.value], dim=-1))


def solve(
    product: Callable[[Tensor], Tensor], target: Float[Tensor, "*BT K"], iterations: int
) -> Float[Tensor, "*BT K"]:
    """The rows that ``product`` turns into ``target``, with the gradient of an exact solution.

    The gradient of the solution is itself solved for, not led back through the iterations: the
    memory that it takes does not grow with them. There is no second derivative.

    Args:
        product: Multiplies each row by a symmetric positive definite matrix of its own.
        target: One row for each system.
        iterations: As many as a matrix has different eigenvalues solve its system exactly.
    """
    with torch.no_grad():
        found = conjugate_gradients(product, target, iterations)
    residual = target - product(found)
    if not residual.requires_grad:
        return found

    def backward(gradient: Tensor) -> Tensor:
        with torch.no_grad():
            return conjugate_gradients(product, gradient, iterations)

    residual.register_hook(backward)
    return found + (residual - residual.detach())


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], target: Float[Tensor, "*BT K"], iterations: int
) -> Float[Tensor, "*BT K"]:
    """The solution from zero after so many iterations (Hestenes and Stiefel 1952); rows apart."""
    found, residual, direction = torch.zeros_like(target), target, target
    error = _dot(residual, residual)
    for _ in range(iterations):
        image = product(direction)
        length = _quotient(error, _dot(direction, image))
        found = found + length * direction
        residual = residual - length * image
        last_error, error = error, _dot(residual, residual)
        direction = residual + _quotient(error, last_error) * direction
    return found


def _dot(a: Float[Tensor, "*BT K"], b: Float[Tensor, "*BT K"]) -> Float[Tensor, "*BT 1"]:
    return (a * b).sum(dim=-1, keepdim=True)


def _quotient(a: Float[Tensor, "*BT 1"], b: Float[Tensor, "*BT 1"]) -> Float[Tensor, "*BT 1"]:
    """Zero where there is nothing left to divide by: the row is solved."""
    return torch.where(b > torch.finfo(b.dtype).tiny, a / b, 0.0)
