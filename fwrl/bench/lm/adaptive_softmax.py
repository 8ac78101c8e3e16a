"""Words as vectors, in and out: tied embeddings, and the adaptive softmax over them.

Frequent words come first. All but the first cluster of words share one entry each in the first
softmax, and have a softmax of their own, computed only where such a word is the target: that makes
large vocabularies cheap (Grave et al. 2017). A word's row serves as its embedding and makes its
logit (Press and Wolf 2017); torch's own adaptive softmax does not tie them. All clusters have
vectors of full width: "div_val 1" of Baevski and Auli (2019).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


class TiedSoftmax(nn.Module):
    """One vector and one bias per word, and the same for each cluster of rare words."""

    def __init__(self, size: int, width: int, cutoffs: tuple[int, ...] = ()) -> None:
        """Random vectors with a standard deviation of 0.02, from torch's global generator.

        Args:
            size: Number of words, the most frequent first.
            width: Size of their vectors.
            cutoffs: Rising ranks at which clusters of rarer words begin; ranks beyond the
                vocabulary are left out. Without any this is a plain softmax.
        """
        super().__init__()
        self.edges = (0, *(cutoff for cutoff in cutoffs if cutoff < size), size)
        self.weight = nn.Parameter(0.02 * torch.randn(size, width))
        self.bias = nn.Parameter(torch.zeros(size))
        clusters = len(self.edges) - 2
        self.cluster_weight = nn.Parameter(0.02 * torch.randn(clusters, width))
        self.cluster_bias = nn.Parameter(torch.zeros(clusters))

    def embed(self, words: Int[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """The vectors of words."""
        return F.embedding(words, self.weight)

    def losses(
        self, x: Float[Tensor, "words D"], targets: Int[Tensor, " words"]
    ) -> Float[Tensor, " words"]:
        """The negative log probability of each target given its features, in nats."""
        head = self._head(x)
        # in the head a rare word stands as its cluster, whose entries follow the frequent words
        first, clusters = self.edges[1], range(1, len(self.edges) - 1)
        entries = targets
        for cluster in clusters:
            entries = torch.where(targets >= self.edges[cluster], first + cluster - 1, entries)
        losses = F.nll_loss(head, entries, reduction="none")
        for cluster in clusters:
            low, high = self.edges[cluster], self.edges[cluster + 1]
            (rows,) = ((targets >= low) & (targets < high)).nonzero(as_tuple=True)
            tail = F.nll_loss(self._within(x[rows], cluster), targets[rows] - low, reduction="none")
            losses = losses.index_add(0, rows, tail)
        return losses

    def log_probabilities(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B size"]:
        """The log probability of every word."""
        head, first = self._head(x), self.edges[1]
        tails = [
            self._within(x, cluster) + head[..., first + cluster - 1, None]
            for cluster in range(1, len(self.edges) - 1)
        ]
        return torch.cat([head[..., :first], *tails], dim=-1)

    def _head(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B entries"]:
        """Log probabilities of the frequent words, then of the clusters."""
        first = self.edges[1]
        weight = torch.cat([self.weight[:first], self.cluster_weight])
        bias = torch.cat([self.bias[:first], self.cluster_bias])
        return F.linear(x, weight, bias).log_softmax(dim=-1)

    def _within(self, x: Float[Tensor, "*B D"], cluster: int) -> Float[Tensor, "*B words"]:
        """Log probabilities of a cluster's words, given that the word is one of them."""
        words = slice(self.edges[cluster], self.edges[cluster + 1])
        return F.linear(x, self.weight[words], self.bias[words]).log_softmax(dim=-1)
