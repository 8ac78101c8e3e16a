"""Running means and variances, kept inside the policy so that they are saved with it."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from agents.distributed import moments

# Numbers that enter the network are cut off here. A stack that normalises nothing bears less.
LARGEST, LARGEST_BARE = 1e12, 1e6


def bounded(x: Float[Tensor, "*any"], largest: float = LARGEST) -> Float[Tensor, "*any"]:
    """Numbers cut off where sums of their squares would leave the range of 32 bits."""
    return x.clamp(-largest, largest)


class RunningMoments(nn.Module):
    """Mean and variance of all rows so far, feature by feature (Chan et al. 1979).

    They change only in ``update``, which the training calls between two rollouts: a rollout and its
    replay are normalised alike.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, size: int, clip: float = 10.0) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(size, dtype=torch.float64))

    @torch.no_grad()
    def update(self, x: Float[Tensor, "*B D"]) -> None:
        """Include every row of ``x``, here and in the other processes of a training."""
        rows = x.reshape(-1, x.shape[-1]).double()
        new, mean, variance = moments(rows)
        count = self.count + new
        difference = mean - self.mean
        share = new / count
        within = self.variance * (1 - share) + variance * share
        self.variance.copy_(within + difference.square() * share * (1 - share))
        self.mean.add_(difference * share)
        self.count.copy_(count)

    def normalise(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """``x`` with zero mean and unit variance, clipped to a few standard deviations."""
        scale = (self.variance + 1e-8).rsqrt()
        return ((x - self.mean.to(x.dtype)) * scale.to(x.dtype)).clamp(-self.clip, self.clip)

    def scale(self) -> Tensor:
        """The standard deviation, for values that may be scaled but must not be shifted."""
        return (self.variance + 1e-8).sqrt().float()
