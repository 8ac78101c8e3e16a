"""Attention to a whole sequence: another stream's, or the own stream in both directions.

The sequence is kept in a form that does not depend on the reader: with a feature map, fast weights
of fixed size; else its keys and values. Two axes here: ``S`` time steps of the sequence that is
read, ``W`` = V + 1 columns, the last for the sum of the keys.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from fwrl.config import Config, head_size
from fwrl.cores.parts.normalised import EPSILON
from fwrl.feature_maps import FeatureMap, FeatureOptions
from fwrl.feature_maps.random import Directions
from fwrl.state import at_least_float32, without_autocast


class SequenceAttentionConfig(Config):
    """Softmax attention (Vaswani et al. 2017), or a feature map in its place."""

    heads: PositiveInt = 4
    """Number of heads, a divisor of the width."""
    feature_map: (
        Literal[
            "elu_plus_one", "relu", "softmax", "dpfp", "favor", "favor_hyperbolic", "favor_relu"
        ]
        | None
    ) = None
    """Non-negative feature map of keys and queries; None: softmax attention."""
    nu: PositiveInt = 1
    """Shifts of dpfp."""
    num_features: PositiveInt = 64
    """Random directions of the favor maps; hyperbolic has two features for each."""
    directions: Directions = "orthogonal"
    """Way to draw the directions of the favor maps."""
    scale_inputs: bool = True
    """Whether the favor maps scale inputs by key_size ** -0.25."""
    redraw_every: NonNegativeInt = 0
    """Updates after which the favor maps draw new directions. 0: never."""


class Readable(NamedTuple):
    """A sequence in the form that attention reads."""

    # with a feature map ``[B, H, K, W]``, the sums over time; else the values ``[B, H, S, V]``
    values: Tensor
    # without a feature map ``[B, H, S, K]``; else empty
    keys: Tensor
    # False at padding; empty with a feature map, whose sums leave padding out
    present: Bool[Tensor, "B S"]


class SequenceAttention(nn.Module):
    """Attention to all time steps of a sequence, whatever their order.

    With a feature map: ``Q' (K'^T V) / Q' (K'^T 1)`` (Katharopoulos et al. 2020; Choromanski et
    al. 2021), at a cost per time step that does not grow with the sequence.
    """

    def __init__(self, width: int, config: SequenceAttentionConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.head_size = head_size("attention", width, config.heads)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        options = FeatureOptions(
            self.head_size,
            config.nu,
            config.num_features,
            config.directions,
            config.scale_inputs,
            config.redraw_every,
        )
        name = config.feature_map
        # features must not be normalised: their size is the weight of a key
        self.feature_map = None if name is None else FeatureMap(name, options, "none")

    def readable(self, x: Float[Tensor, "B S D"], present: Bool[Tensor, "B S"]) -> Readable:
        """The form of a sequence that ``read`` takes; padding (not ``present``) is not read.

        Each row needs a time that is present.
        """
        both = self.key_value(x).unflatten(-1, (2, self.heads, self.head_size))
        key, value = both.transpose(1, 3).unbind(2)
        if self.feature_map is None:
            return Readable(value, key, present)
        with without_autocast(x.device):
            features, value = self.feature_map(key), at_least_float32(value)
            features = torch.where(present[:, None, :, None], features, 0.0)
            weights = features.mT @ F.pad(value, (0, 1), value=1.0)
        return Readable(weights, weights.new_zeros(len(x), 0), present[:, :0])

    def read(self, x: Float[Tensor, "B T D"], sequence: Readable) -> Float[Tensor, "B T D"]:
        """The attention of each time of ``x`` to the sequence."""
        query = self.query(x).unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)
        if self.feature_map is None:
            found = F.scaled_dot_product_attention(
                query, sequence.keys, sequence.values, sequence.present[:, None, None]
            )
        else:
            with without_autocast(x.device):
                sums = self.feature_map(query) @ sequence.values
                found = sums[..., :-1] / sums[..., -1:].clamp_min(EPSILON)
        return self.output(found.transpose(1, 2).flatten(start_dim=-2))
