"""RWKV-7: a delta rule that removes at one key and writes at another (Peng et al. 2025)."""

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fwrl.config import Count, Size, head_size
from fwrl.core import About, MemoryCore, MemoryCoreConfig, Reads
from fwrl.kernels import scan, scan_step
from fwrl.state import at_least_float32
from fwrl.update_rules import ScanInputs, Write, generalised_delta_rule

# The strongest decay is exp(-0.6065...) = 0.545 a time.
MAX_LOG_DECAY = math.exp(-0.5)


class RWKV7Config(MemoryCoreConfig):
    """The memory of RWKV-7, without its bonus: each time's own value, read beside the fast weights.

    Note:
        Left out: the mixing of each input with the one before it (``fast_weight`` has a short
        convolution for that), the values of the first layer in all layers, the output gate, and
        the bonus, which is the value times a learned product of query and key.
    """

    about: ClassVar[About] = About(
        update="W <- diag(a) W - (b * r) (r W) + k v, y = q W",
        cost="4D^2 + 4Dr + 4HKV, r the rank",
        parallel=True,
        source="Peng et al. 2025, without the bonus",
    )
    kind: Literal["rwkv7"] = "rwkv7"
    heads: Count = 4
    """Heads, each with fast weights of its own; a divisor of the input size."""
    rank: Size = 16
    """Units of the bottlenecks in the projections of decays and removal rates."""

    @override
    def build(self, input_size: int) -> "RWKV7":
        return RWKV7(input_size, self)


class RWKV7(MemoryCore[Tensor]):
    """State: the fast weights ``[B, H, K, V]``, K = V = D / H."""

    remark = "a norm of each head follows"

    def __init__(self, input_size: int, config: RWKV7Config) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.heads = config.heads
        self.head_size = head_size("rwkv7", input_size, config.heads)
        self.project = nn.Linear(input_size, 3 * input_size, bias=False)
        self.decay = nn.Sequential(
            nn.Linear(input_size, config.rank, bias=False),
            nn.Tanh(),
            nn.Linear(config.rank, input_size),
        )
        self.rate = nn.Sequential(
            nn.Linear(input_size, config.rank, bias=False), nn.Linear(config.rank, input_size)
        )
        # scale of the removal key relative to the key, and how far the written key follows the
        # removal rate
        self.removal_scale = nn.Parameter(torch.ones(config.heads, self.head_size))
        self.rate_mix = nn.Parameter(torch.ones(config.heads, self.head_size))
        self.norm = nn.GroupNorm(config.heads, input_size)
        self.output = nn.Linear(input_size, input_size, bias=False)
        self._spread_decays()

    @torch.no_grad()
    def _spread_decays(self) -> None:
        """Features begin with decays from 0.55 to 0.997, the slower ones more densely."""
        last = self.decay[-1]
        assert isinstance(last, nn.Linear)
        last.weight.zero_()
        last.bias.copy_(5.5 - 11.0 * torch.linspace(0, 1, last.out_features) ** 0.7)

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> Tensor:
        return torch.zeros(batch_size, self.heads, self.head_size, self.head_size, device=device)

    @override
    def step(self, x: Float[Tensor, "B D"], state: Tensor) -> tuple[Float[Tensor, "B E"], Tensor]:
        values, state = scan_step(generalised_delta_rule, state, *self._slow(x))
        return self._out(values), state

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: Tensor, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], Tensor]:
        values, state = scan(generalised_delta_rule, state, *self._slow(x), starts)
        return self._out(values), state

    @override
    def reads(
        self, x: Float[Tensor, "B T D"], state: Tensor, starts: Bool[Tensor, "B T"]
    ) -> list[Reads]:
        inputs = ScanInputs(state, *self._slow(x), starts)
        return [Reads("fast weights", generalised_delta_rule, inputs)]

    def _slow(self, x: Float[Tensor, "*BT D"]) -> tuple[Float[Tensor, "*BT H K"], Write]:
        """The queries and the writes."""

        def per_head(projected: Float[Tensor, "*BT E"]) -> Float[Tensor, "*BT H F"]:
            return at_least_float32(projected).unflatten(-1, (self.heads, -1))

        query, key, value = (per_head(part) for part in self.project(x).chunk(3, dim=-1))
        rate = per_head(self.rate(x)).sigmoid()
        decay = torch.exp(-MAX_LOG_DECAY * per_head(self.decay(x)).sigmoid())
        # a removal key of unit length keeps the removal from overshooting
        removal_key = F.normalize(key * self.removal_scale, dim=-1)
        key = key * (1.0 + (rate - 1.0) * self.rate_mix)
        return query, Write(key, value, decay=decay, removal_key=removal_key, removal_rate=rate)

    def _out(self, values: Float[Tensor, "*BT H V"]) -> Float[Tensor, "*BT E"]:
        flat = values.flatten(start_dim=-2)
        return self.output(self.norm(flat.flatten(0, -2)).view_as(flat))
