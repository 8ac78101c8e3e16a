"""Fast weights: a slow network that, at each time, writes into and reads from a matrix per head."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fwrl.config import Count, Size, head_size, one_of
from fwrl.core import About, MemoryCore, MemoryCoreConfig, Reads
from fwrl.cores.parts import layers
from fwrl.cores.parts.layers import Decay, HeadNorm, ShortConvolution
from fwrl.cores.parts.normalised import normalised_scan, normalised_write
from fwrl.feature_maps import EPSILON, FEATURE_MAPS, FeatureMap, FeatureOptions, Normalisation
from fwrl.feature_maps.random import Directions
from fwrl.kernels import (
    KERNELS,
    acts_natively,
    scan,
    scan_step,
    scans_projections,
    unit_silu,
)
from fwrl.kernels.native.convolution import convolution
from fwrl.kernels.native.projected_scan import projected_scan
from fwrl.kernels.native.residual import UnservedError, place, places, plain
from fwrl.kernels.native.scan import act
from fwrl.state import FastWeights, at_least_float32, map_tensors
from fwrl.update_rules import UPDATE_RULES, ScanInputs, Write


class FastWeightConfig(MemoryCoreConfig):
    """Fast weights; the defaults are a gated delta net (Yang et al. 2024b).

    ``update_rule="delta"`` is Parallel DeltaNet (Yang et al. 2024a), which never forgets by itself.

    Note:
        Both recipes also have ``short_convolution=4``, and the gated one a gate and a norm of what
        is read. The scale of their queries is left out, which here have unit length already.
    """

    about: ClassVar[About] = About(
        update="W <- a W + beta k (v - a k W), y = q W",
        cost="4D^2 + 4HKV",
        parallel=True,
        source="Schlag et al. 2021a; Yang et al. 2024a; Yang et al. 2024b",
    )
    former: ClassVar[Mapping[str, Any]] = {"update_rule": "delta", "convolution_init": "random"}
    kind: Literal["fast_weight"] = "fast_weight"
    heads: Count = 4
    """Heads, each with fast weights of its own; a divisor of the input size unless ``key_size`` and
    ``value_size`` are given."""
    key_size: Size | None = None
    """Size of each head's keys, before the feature map; None: the input size divided by the
    heads."""
    value_size: Size | None = None
    """Size of each head's values; None: the input size divided by the heads."""
    update_rule: Annotated[str, one_of(n for n, rule in UPDATE_RULES.items() if rule.offered)] = (
        "gated_delta"
    )
    """How a key and its value change the fast weights; ``fwrl list rules`` explains each."""
    feature_map: Annotated[str, one_of(FEATURE_MAPS)] = "silu"
    """Makes addresses of keys and queries; ``fwrl list features`` explains each."""
    nu: Count = 1
    """Shifts of dpfp."""
    num_features: Size = 64
    """Random directions of the favor maps; hyperbolic and trigonometric make two of each."""
    directions: Directions = "orthogonal"
    """Directions of the favor maps: orthogonal in blocks, the same with equal lengths, or
    independent."""
    scale_inputs: bool = True
    """Whether the favor maps scale inputs by key_size ** -0.25, as softmax attention's logits are;
    Schlag et al. do not."""
    redraw_every: NonNegativeInt = 0
    """Updates after which the favor maps draw new directions, and lose what is stored under the
    old ones; for PPO an update is a rollout. 0: never."""
    normalise: Normalisation = "l2"
    """Scales key and query features to a sum or a length of 1."""
    attention_normaliser: bool = False
    """Divides each read by the sum of its attention weights."""
    max_beta: Literal[1, 2] = 1
    """The largest write strength or erase gate; 2 lets the delta rule reflect, so that it can count
    parity."""
    num_householder: Count = 1
    """Writes at each time step, each with a key, a value and a beta of its own: DeltaProduct (Siems
    et al. 2025). More than one lets the state change by a product of as many reflections."""
    short_convolution: int = Field(default=0, ge=0, le=2**10)
    """Time steps that a causal convolution of queries, keys and values spans, often 4; 0: none."""
    convolution_init: layers.ConvolutionInit = "present"
    """The convolution at first: ``present`` lets queries, keys and values pass as they are, so that
    recall is learned as without one; ``random`` mixes them."""
    learned_initial_state: bool = False
    """Whether episodes begin with fast weights that are learned, in place of zeros."""
    output_norm: HeadNorm = "none"
    """Scales the read of each head to unit size (``layer`` without learned scales). Reads under the
    default recipe are bounded by the values already, and their size says how sure the memory is;
    sums may need it."""
    kernel: Annotated[str, one_of(("auto", *KERNELS))] = "auto"
    """The kernel that computes a sequence; all agree, ``auto`` takes the fastest for the rule."""

    @model_validator(mode="after")
    def _consistent(self) -> "FastWeightConfig":
        signed = FEATURE_MAPS[self.feature_map].signed
        if self.normalise == "sum" and signed:
            raise ValueError(
                f"normalise='sum' cannot divide by features that may be negative, as "
                f"feature_map={self.feature_map!r} makes; use normalise='l2' or another map"
            )
        rule = UPDATE_RULES[self.update_rule]
        if self.max_beta != 1 and rule.decay == "rest":
            raise ValueError(
                f"max_beta=2 makes the decay of {self.update_rule} negative; use max_beta=1"
            )
        if self.num_householder > 1 and (not rule.repeats or self.attention_normaliser):
            repeated = ", ".join(name for name, each in UPDATE_RULES.items() if each.repeats)
            raise ValueError(
                f"num_householder is {self.num_householder}, but only {repeated}, and "
                f"no attention_normaliser, write several times; use num_householder=1"
            )
        if not self.attention_normaliser:
            return self
        if signed:
            raise ValueError(
                f"attention_normaliser cannot divide by features that may be negative, as "
                f"feature_map={self.feature_map!r} makes; use elu_plus_one or dpfp"
            )
        if not rule.normalises:
            normalised = ", ".join(name for name, each in UPDATE_RULES.items() if each.normalises)
            raise ValueError(
                f"attention_normaliser is not defined for {self.update_rule}; use {normalised}"
            )
        if self.learned_initial_state:
            raise ValueError(
                "attention_normaliser and learned_initial_state exclude each other; choose one"
            )
        return self

    @override
    def build(self, input_size: int) -> "FastWeight":
        return FastWeight(input_size, self)


class State(NamedTuple):
    """The fast weights, and the last inputs of a short convolution (R = 0 without one)."""

    # one column more holds the sum of the keys, with attention normalisation
    weights: FastWeights
    recent: Float[Tensor, "B R P"]


class FastWeight(MemoryCore[State]):
    """The weights in its state are ``[B, H, K, V]``, K being the features."""

    def __init__(self, input_size: int, config: FastWeightConfig) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.heads, self.kernel = config.heads, config.kernel
        self.writes, self.max_beta = config.num_householder, config.max_beta
        self.rule = UPDATE_RULES[config.update_rule]
        self.normalised = config.attention_normaliser
        self.key_size = config.key_size or head_size(
            "fast_weight", input_size, config.heads, ", or give key_size"
        )
        self.value_size = config.value_size or head_size(
            "fast_weight", input_size, config.heads, ", or give value_size"
        )
        options = FeatureOptions(
            self.key_size,
            config.nu,
            config.num_features,
            config.directions,
            config.scale_inputs,
            config.redraw_every,
        )
        self.feature_map = FeatureMap(config.feature_map, options, config.normalise)
        # queries, keys, values: one product
        self.addresses = config.heads * (1 + self.writes) * self.key_size
        projected = self.addresses + config.heads * self.writes * self.value_size
        self.project = nn.Linear(input_size, projected, bias=False)
        # one strength of each write, or the gates of its features and values
        sizes = {"none": 0, "gates": self.feature_map.size + self.value_size}
        strengths = config.heads * self.writes * sizes.get(self.rule.beta, 1)
        self.beta = nn.Linear(input_size, strengths) if strengths else None
        self.unit_silu = config.feature_map == "silu" and config.normalise == "l2"
        channels = {"head": 1, "feature": self.feature_map.size}.get(self.rule.decay)
        self.decay = Decay(input_size, config.heads, channels) if channels else None
        # one pass in C can act from the projections on, with beta as it is given and one decay; it
        # would serve sums that decay too, but rounds otherwise than their runs so far
        served = self.rule.decay in (("none", "head") if self.rule.form == "error" else ("none",))
        self.fused = self.unit_silu and served and self.rule.beta in ("none", "given")
        # neither sums of keys nor several writes at a time
        self.single = not (config.attention_normaliser or self.writes > 1)
        self.normed = config.output_norm != "none"
        self.output_norm = layers.head_norm(config.output_norm, self.value_size)
        self.output = nn.Linear(config.heads * self.value_size, input_size, bias=False)
        columns = self.value_size + 1 if self.normalised else self.value_size
        shape = (1, config.heads, self.feature_map.size, columns)
        self.start = nn.Parameter(torch.zeros(shape)) if config.learned_initial_state else None
        self.shape = torch.Size(shape[1:])
        size = config.short_convolution
        init = config.convolution_init
        self.convolution = ShortConvolution(projected, size, init=init) if size else None
        self.remark = _remark(config)

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> State:
        if self.convolution is None:
            recent = torch.zeros(batch_size, 0, 0, device=device)
        else:
            recent = self.convolution.initial_state(batch_size, device)
        if self.start is None:
            weights = torch.zeros(batch_size, *self.shape, device=device)
        else:
            weights = self.start.to(device).expand(batch_size, -1, -1, -1).clone()
        return State(weights, recent)

    @override
    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B E"], State]:
        if self.convolution is not None or not self.single:
            return super().step(x, state)
        if self.fused and acts_natively(self.rule, x, self.kernel):
            return self._act(x, state)
        query, write = self._slow(x, self.project(x))
        write = map_tensors(partial(torch.squeeze, dim=-3), write)
        values, weights = scan_step(self.rule, state.weights, query, write)
        return self._out(values), state._replace(weights=weights)

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], State]:
        if (
            self.fused
            and self.single
            and scans_projections(self.rule, x, state.weights, self.kernel)
        ):
            return self._scan_projections(x, state, starts)
        query, write, starts, recent = self._sequence(x, state, starts)
        weights = state.weights
        if self.normalised:
            values, weights = normalised_scan(self.rule, weights, query, write, starts, self.kernel)
        else:
            values, weights = scan(
                self.rule, weights, query, write, starts, self.start, self.kernel
            )
        # each time step reads after its last write
        read = values[:, self.writes - 1 :: self.writes]
        return self._out(read), State(weights, recent)

    @override
    def reads(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> list[Reads]:
        query, write, starts, _ = self._sequence(x, state, starts)
        weights, key_sum = state.weights.tensor_split([self.value_size], dim=-1)
        if self.normalised and self.rule.form == "error":
            write = normalised_write(key_sum, write, starts, self.kernel)
        inputs = ScanInputs(weights, query, write, starts, self.start)
        return [Reads("fast weights", self.rule, inputs, self.writes)]

    def _sequence(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B R H K"], Write, Bool[Tensor, "B R"], Tensor]:
        """Queries, writes and starts of R = T * N writes, and the convolution's new state."""
        projected, recent = self.project(x), state.recent
        if self.convolution is not None:
            projected, recent = self.convolution(projected, recent, starts)
        return *_one_after_another(*self._slow(x, projected), starts), recent

    def _slow(
        self, x: Float[Tensor, "*BT D"], projected: Float[Tensor, "*BT P"]
    ) -> tuple[Float[Tensor, "*BT H M"], Write]:
        """The query and the write, whose fields have an axis for the writes of one time."""
        address, value = self._split(projected)
        features = partial(unit_silu, kernel=self.kernel) if self.unit_silu else self.feature_map
        query, key = features(address).split([1, self.writes], dim=-3)
        if self.convolution is not None:
            value = F.silu(value)
        beta = erase = None
        if self.beta is not None:
            strength = at_least_float32(self.beta(x)).sigmoid()
            beta = strength.unflatten(-1, (self.writes, self.heads, -1))
            if self.rule.beta == "gates":
                erase, gate = beta.tensor_split([self.feature_map.size], dim=-1)
                beta, erase, value = None, self.max_beta * erase, gate * value
            else:
                beta = self.max_beta * beta
        decay = None
        if self.decay is not None:
            decay = self.decay(x).unsqueeze(-3)
            # the memory decays once at each time, before the first write
            decay = torch.cat([decay] + [torch.ones_like(decay)] * (self.writes - 1), dim=-3)
        return query.squeeze(-3), Write(key, value, beta, decay, removal_rate=erase)

    def _split(
        self, projected: Float[Tensor, "*BT P"]
    ) -> tuple[Float[Tensor, "*BT R H K"], Float[Tensor, "*BT W H V"]]:
        """The projections of the query (the first) and of the keys, and those of the values."""
        address, value = projected.split([self.addresses, projected.shape[-1] - self.addresses], -1)
        return (
            address.unflatten(-1, (1 + self.writes, self.heads, self.key_size)),
            value.unflatten(-1, (self.writes, self.heads, self.value_size)),
        )

    def _act(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B E"], State]:
        """``step`` without gradients, in one pass from the projections to the reads."""
        projected = at_least_float32(self.project(x))
        logit = None if self.beta is None else at_least_float32(self.beta(x))
        decay = None if self.decay is None else self.decay(x).contiguous()
        values, weights = act(self.rule, state.weights, projected, logit, decay, self.max_beta)
        if self.normed:
            values = self.output_norm(values.unflatten(-1, (self.heads, -1))).flatten(-2)
        return self.output(values), state._replace(weights=weights)

    def into(self, layer: Any) -> None:
        """Fill in this core's part of a ``LAYER``, for steps of a whole stack in C.

        Raises:
            UnservedError: If C does not compute such a core.
        """
        if not (self.fused and self.single and self.kernel in ("auto", "native")):
            raise UnservedError
        layer.heads, layer.keys, layer.values = self.heads, self.key_size, self.value_size
        layer.removes, layer.max_beta = self.rule.form == "error", self.max_beta
        layer.address_epsilon = EPSILON
        layer.project, _ = places(self.project, nn.Linear)
        layer.output, _ = places(self.output, nn.Linear)
        if self.convolution is not None:
            layer.convolution = self.convolution.size
            layer.mix = place(plain(self.convolution, ShortConvolution).weight)
        if self.beta is not None:
            layer.beta, layer.beta_bias = places(self.beta, nn.Linear)
        if self.decay is not None:
            decay = plain(self.decay, Decay)
            layer.step, _ = places(decay.step, nn.Linear)
            layer.log_rate, layer.step_bias = place(decay.log_rate), place(decay.step_bias)
        if self.normed:
            norm, kinds = self.output_norm, (nn.Identity, nn.RMSNorm, nn.LayerNorm)
            layer.output_norm = kinds.index(type(norm))
            layer.output_scale, _ = places(norm, type(norm))
            layer.output_epsilon = norm.eps or torch.finfo(torch.float32).eps

    def _scan_projections(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], State]:
        """``unroll`` in one pass from the projections to the reads."""
        weight, bias = self.project.weight, None
        if self.beta is not None:
            weight, bias = torch.cat([weight, self.beta.weight]), self.beta.bias
        # without a bias, which a product would first copy to all rows
        projected, recent = F.linear(x, weight), state.recent
        if self.convolution is not None:
            # SiLU of the values; the scan takes that of the addresses
            mix, silu_from = self.convolution.weight, self.addresses
            projected, recent = convolution(projected, mix, recent, starts, silu_from)
        decay = None if self.decay is None else self.decay(x)
        values, weights = projected_scan(
            self.rule, projected, bias, decay, state.weights, self.start, starts, self.max_beta
        )
        return self._out(values), State(weights, recent)

    def _out(self, values: Float[Tensor, "*BT H V"]) -> Float[Tensor, "*BT E"]:
        return self.output(self.output_norm(values).flatten(start_dim=-2))


def _one_after_another(
    query: Float[Tensor, "B T H K"], write: Write, starts: Bool[Tensor, "B T"]
) -> tuple[Float[Tensor, "B R H K"], Write, Bool[Tensor, "B R"]]:
    """A sequence of R = T * N single writes, where each time step had N.

    Only the first write of a time step can start an episode; only the last is followed by a read.
    """
    writes = write.key.shape[2]
    query = F.pad(query.unsqueeze(2), (0, 0, 0, 0, writes - 1, 0))
    starts = F.pad(starts.unsqueeze(2), (0, writes - 1))
    flat = map_tensors(partial(torch.flatten, start_dim=1, end_dim=2), write)
    return query.flatten(1, 2), flat, starts.flatten(1, 2)


def _remark(config: FastWeightConfig) -> str:
    """The parts between the reads and the input or output, which a recall map leaves out."""
    remarks = {
        "what reads are divided by is taken as it was": config.attention_normaliser,
        "a short convolution mixes the last inputs before they are written or asked": bool(
            config.short_convolution
        ),
        f"the {config.num_householder} writes of a time count as one": config.num_householder > 1,
        "a norm of each head follows": config.output_norm != "none",
    }
    return "; ".join(text for text, applies in remarks.items() if applies)
