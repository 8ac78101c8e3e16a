"""The one-layer model of the retrieval experiments (Schlag et al. 2021a): any map, any rule.

All values written are one-hot, and all reads follow all writes. A read is then a weight for each
write, and the memory itself, S values by K features, need not be formed.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fwrl.bench.retrieval.task import RetrievalBatch
from fwrl.config import Config
from fwrl.feature_maps import FeatureMap, FeatureOptions
from fwrl.feature_maps.random import RandomFeatures
from fwrl.kernels import scan
from fwrl.update_rules import Write, clipped_delta_rule

# Added to the denominator of a sum, which is zero in an empty memory.
EPSILON = 1e-6
# Writes in one triangular solve.
CHUNK_SIZE = 64


class MethodConfig(Config):
    """A memory of the experiments."""

    rule: Literal["attention", "sum", "delta", "clipped_delta"] = "delta"
    """``attention`` is softmax attention; ``clipped_delta`` is the rule of Schlag, Munkhdalai and
    Schmidhuber (2021), whose reads are layer-normed."""
    feature_map: Literal["identity", "elu_plus_one", "dpfp", "favor_hyperbolic", "tanh"] = (
        "identity"
    )
    """Feature map of keys and queries; softmax attention has none."""
    nu: PositiveInt = 1
    """Shifts of dpfp."""
    num_features: PositiveInt = 64
    """Random directions of favor_hyperbolic, drawn anew in every pass, as in the experiments."""
    batch_size: PositiveInt = 32
    """Sequences in an update."""
    learning_rate: PositiveFloat = 1e-3
    """Step size of Adam."""


class RetrievalModel(nn.Module):
    """Key embedding, two projections, and the reads of one memory.

    Note:
        The published table of embeddings has twice the rows, of which half are never used.
    """

    def __init__(self, config: MethodConfig, num_keys: int, key_size: int = 64) -> None:
        super().__init__()
        self.rule, self.num_keys = config.rule, num_keys
        width = int(2.2 * num_keys)
        self.embedding = nn.Embedding(num_keys, width)
        # reads a one-hot value and the embedding of its key
        self.write_key = nn.Linear(num_keys + width, key_size)
        self.query = nn.Linear(width, key_size)
        for layer in (self.write_key, self.query):
            if config.rule == "attention":
                nn.init.xavier_uniform_(layer.weight)
            else:
                nn.init.uniform_(layer.weight, -1 / math.sqrt(key_size), 1 / math.sqrt(key_size))
        removes = config.rule in ("delta", "clipped_delta")
        self.beta = nn.Linear(num_keys + width, 1) if removes else None
        options = FeatureOptions(
            key_size, nu=config.nu, num_features=config.num_features, scale_inputs=False
        )
        normalise = "sum" if config.rule == "delta" else "none"
        self.feature_map = FeatureMap(config.feature_map, options, normalise)

    @override
    def forward(self, batch: RetrievalBatch) -> Float[Tensor, "B Q S"]:
        """The read of each query: close to a one-hot vector, once learned."""
        if isinstance(self.feature_map.features, RandomFeatures):
            self.feature_map.features.redraw()
        key = self.feature_map(self._from_pair(self.write_key, batch))
        query = self.feature_map(self.query(self.embedding(batch.queries)))
        beta = None if self.beta is None else self._from_pair(self.beta, batch).sigmoid()
        if self.rule == "clipped_delta":
            assert beta is not None
            return self._clipped_reads(key, beta, query, batch.values)
        weights = read_weights(self.rule, key, beta, query)
        read = weights.new_zeros(*batch.queries.shape, self.num_keys)
        return read.scatter_add(2, batch.values.unsqueeze(1).expand_as(weights), weights)

    def _from_pair(self, layer: nn.Linear, batch: RetrievalBatch) -> Float[Tensor, "B L M"]:
        """The layer on a one-hot value and the embedding of its key, which need not be formed."""
        value_weight, key_weight = layer.weight.split(
            [self.num_keys, self.embedding.embedding_dim], dim=1
        )
        keys = F.linear(self.embedding.weight, key_weight, layer.bias)
        return value_weight.T[batch.values] + keys[batch.keys]

    def _clipped_reads(
        self,
        key: Float[Tensor, "B L K"],
        beta: Float[Tensor, "B L 1"],
        query: Float[Tensor, "B Q K"],
        values: Int[Tensor, "B L"],
    ) -> Float[Tensor, "B Q S"]:
        """Reads by the scan itself: because of the clip they are no sum over writes."""
        value = F.one_hot(values, self.num_keys).to(key.dtype)
        write = Write(key.unsqueeze(2), value.unsqueeze(2), beta.unsqueeze(2))
        empty = key.new_zeros(key.shape[0], 1, key.shape[2], self.num_keys)
        starts = torch.zeros_like(values, dtype=torch.bool)
        _, weights = scan(clipped_delta_rule, empty, torch.zeros_like(write.key), write, starts)
        return F.layer_norm(query @ weights.squeeze(1), (self.num_keys,))


def read_weights(
    rule: str,
    key: Float[Tensor, "B L K"],
    beta: Float[Tensor, "B L 1"] | None,
    query: Float[Tensor, "B Q K"],
) -> Float[Tensor, "B Q L"]:
    """The weight of each of L values, written to an empty memory, in each read after them.

    Args:
        rule: ``attention`` (softmax), ``sum`` (divided by the sum of the weights) or ``delta``.
        key: Features of the keys.
        beta: Write strengths; None unless the rule is ``delta``.
        query: Features of the queries.
    """
    if beta is not None:
        return _delta_weights(key, beta, query)
    # in this order the gradient of the keys, which are the larger, keeps their memory layout
    overlap = (key @ query.mT).mT
    if rule == "attention":
        return (overlap / math.sqrt(key.shape[-1])).softmax(dim=-1)
    return overlap / (overlap.sum(dim=-1, keepdim=True) + EPSILON)


def _delta_weights(
    key: Float[Tensor, "B L K"], beta: Float[Tensor, "B L 1"], query: Float[Tensor, "B Q K"]
) -> Float[Tensor, "B Q L"]:
    """The weights of the delta rule, from the last chunk of writes to the first.

    The writes ``u`` of a chunk that finds the memory ``W`` solve
    ``(I + lower(b K K^T)) u = b (V - K W)``. A read ``q (W + K^T u)`` therefore weights its values
    by ``w = q K^T (I + lower(b K K^T))^-1 b``, and reads ``W`` by ``q - w K``.
    """
    weights: list[Tensor] = []
    chunks = zip(key.split(CHUNK_SIZE, dim=1), beta.split(CHUNK_SIZE, dim=1), strict=True)
    for keys, strengths in reversed(list(chunks)):
        removal = (strengths * (keys @ keys.mT)).tril(diagonal=-1)
        overlap = torch.linalg.solve_triangular(
            removal, query @ keys.mT, upper=False, left=False, unitriangular=True
        )
        weights.append(overlap * strengths.mT)
        query = query - weights[-1] @ keys
    return torch.cat(weights[::-1], dim=-1)
