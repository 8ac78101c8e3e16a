"""Fast weights: a slow network that, at each time, writes into and reads from a matrix per head."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn
from typing_extensions import override

from fwrl.config import Config, ConfigError
from fwrl.core import About, MemoryCore
from fwrl.decay import Decay
from fwrl.feature_maps import SIGNED, FeatureMap, FeatureOptions, Normalisation
from fwrl.kernels import scan, scan_step
from fwrl.kernels.normalised import normalised_scan
from fwrl.precision import at_least_float32
from fwrl.update_rules import UPDATE_RULES, Write, decayed_sum_rule, gated_delta_rule, sum_rule


class FastWeightConfig(Config):
    """Fast weights; the defaults are the delta rule of Parallel DeltaNet (Yang et al. 2024).

    Note:
        Left out of that recipe: the short convolution, and the scale of the queries, which here
        have unit length already.
    """

    about: ClassVar[About] = About(
        update="W <- W + beta k (v - k W), y = q W",
        cost="4D^2 + 3HKV",
        parallel=True,
        source="Schlag et al. 2021; Yang et al. 2024",
    )
    kind: Literal["fast_weight"] = "fast_weight"
    heads: PositiveInt = 4
    key_size: PositiveInt | None = None
    """Of each head, before the feature map; None: the input size divided by the heads."""
    value_size: PositiveInt | None = None
    """Of each head; None: the input size divided by the heads."""
    update_rule: Literal["sum", "delta", "gated_sum", "decayed_sum", "gated_delta"] = "delta"
    """How a key and its value change the fast weights; ``fwrl list rules`` explains each."""
    feature_map: Literal["identity", "elu_plus_one", "relu", "silu", "softmax", "dpfp", "favor"] = (
        "silu"
    )
    """Of keys and queries; ``fwrl list features`` explains each."""
    nu: PositiveInt = 1
    """Shifts of dpfp."""
    num_features: PositiveInt = 64
    """Random directions of favor."""
    normalise: Normalisation = "l2"
    """Makes the sum or the length of key and query features 1."""
    attention_normaliser: bool = False
    """Divides what is read by the sum of the weights that made it."""
    max_beta: Literal[1, 2] = 1
    """The largest write strength; 2 lets the delta rule reflect, so that it can count parity."""
    learned_initial_state: bool = False
    """Whether episodes begin with fast weights that are learned, in place of zeros."""
    output_norm: bool = False
    """Scales what each head reads to unit size. Reads under the default recipe are bounded by the
    values already, and their size says how sure the memory is; sums may need it."""
    kernel: Literal["auto", "reference", "chunked"] = "auto"
    """What computes a sequence; all agree, ``auto`` takes the fastest that knows the rule."""

    @model_validator(mode="after")
    def _consistent(self) -> "FastWeightConfig":
        signed = self.feature_map in SIGNED
        if self.normalise == "sum" and signed:
            raise ValueError(
                f"normalise='sum' cannot divide by features that may be negative, as "
                f"feature_map={self.feature_map!r} makes; use normalise='l2' or another map"
            )
        if self.max_beta != 1 and self.update_rule == "gated_sum":
            raise ValueError("max_beta=2 makes the decay of gated_sum negative; use max_beta=1")
        if not self.attention_normaliser:
            return self
        if signed:
            raise ValueError(
                f"attention_normaliser cannot divide by features that may be negative, as "
                f"feature_map={self.feature_map!r} makes; use elu_plus_one or dpfp"
            )
        if self.update_rule == "gated_delta":
            raise ValueError("attention_normaliser is not defined for gated_delta; use delta")
        if self.learned_initial_state:
            raise ValueError(
                "attention_normaliser and learned_initial_state exclude each other; choose one"
            )
        return self

    def build(self, input_size: int) -> "FastWeight":
        """The core for inputs of this size."""
        return FastWeight(input_size, self)


class FastWeight(MemoryCore[Tensor]):
    """State: the fast weights ``[B, H, K, V]``, K being the number of features.

    With attention normalisation one more column holds the sum of the keys.
    """

    def __init__(self, input_size: int, config: FastWeightConfig) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.heads, self.kernel = config.heads, config.kernel
        self.max_beta = config.max_beta
        self.rule = UPDATE_RULES[config.update_rule]
        self.normalised = config.attention_normaliser
        self.key_size = _per_head(input_size, config.heads, config.key_size, "key_size")
        self.value_size = _per_head(input_size, config.heads, config.value_size, "value_size")
        options = FeatureOptions(self.key_size, config.nu, config.num_features)
        self.feature_map = FeatureMap(config.feature_map, options, config.normalise)
        # queries, keys, values: one product
        projected = config.heads * (2 * self.key_size + self.value_size)
        self.project = nn.Linear(input_size, projected, bias=False)
        self.beta = None if self.rule is sum_rule else nn.Linear(input_size, config.heads)
        decays = self.rule in (decayed_sum_rule, gated_delta_rule)
        self.decay = Decay(input_size, config.heads) if decays else None
        self.output_norm = nn.RMSNorm(self.value_size) if config.output_norm else nn.Identity()
        self.output = nn.Linear(config.heads * self.value_size, input_size, bias=False)
        self.start = None
        if config.learned_initial_state:
            self.start = nn.Parameter(torch.zeros(1, *self._state_shape()))

    def _state_shape(self) -> tuple[int, int, int]:
        columns = self.value_size + 1 if self.normalised else self.value_size
        return self.heads, self.feature_map.size, columns

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> Tensor:
        if self.start is not None:
            return self.start.to(device).expand(batch_size, -1, -1, -1).clone()
        return torch.zeros(batch_size, *self._state_shape(), device=device)

    @override
    def step(self, x: Float[Tensor, "B D"], state: Tensor) -> tuple[Float[Tensor, "B E"], Tensor]:
        if self.normalised:
            starts = torch.zeros(x.shape[0], 1, dtype=torch.bool, device=x.device)
            y, state = self.unroll(x.unsqueeze(1), state, starts)
            return y.squeeze(1), state
        values, state = scan_step(self.rule, state, *self._slow(x))
        return self._out(values), state

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: Tensor, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], Tensor]:
        query, write = self._slow(x)
        if self.normalised:
            values, state = normalised_scan(self.rule, state, query, write, starts, self.kernel)
        else:
            values, state = scan(self.rule, state, query, write, starts, self.start, self.kernel)
        return self._out(values), state

    def _slow(self, x: Float[Tensor, "*BT D"]) -> tuple[Float[Tensor, "*BT H M"], Write]:
        """The query, and what is to be written."""
        addresses = 2 * self.heads * self.key_size
        projected = self.project(x)
        address = projected[..., :addresses].unflatten(-1, (2 * self.heads, self.key_size))
        query, key = self.feature_map(address).chunk(2, dim=-2)
        value = projected[..., addresses:].unflatten(-1, (self.heads, self.value_size))
        beta = None
        if self.beta is not None:
            strength = at_least_float32(self.beta(x)).sigmoid()
            beta = self.max_beta * strength.unsqueeze(-1)
        decay = None if self.decay is None else self.decay(x).unsqueeze(-1)
        return query, Write(key, value, beta, decay)

    def _out(self, values: Float[Tensor, "*BT H V"]) -> Float[Tensor, "*BT E"]:
        return self.output(self.output_norm(values).flatten(start_dim=-2))


def _per_head(input_size: int, heads: int, size: int | None, name: str) -> int:
    if size is not None:
        return size
    if input_size % heads:
        raise ConfigError(
            f"fast_weight: input_size {input_size} does not divide into {heads} heads; "
            f"use a multiple of {heads}, or give {name}"
        )
    return input_size // heads
