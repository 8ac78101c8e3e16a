"""A signal over [0, 1] as a sum of Gaussian bumps: fitted, read by densities, and shrunk.

The long-term memory of Martins et al. (2022). The signal ``x(t) = B^T psi(t)`` has as many values
as the vectors it was fitted to, and N coefficients for each of them, however much it has taken in:
new vectors push the old signal together towards 0, where its details fade.

Axes of this file: ``N`` basis functions, ``L`` vectors at positions in [0, 1], ``M`` samples of the
old signal, ``S`` vectors of one segment, ``R`` rows of a batch that are folded, ``Q`` bins.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

# The two widths of Martins et al. for 512 functions. A coarser grid widens them to one and two of
# its spacings: narrower bumps would leave gaps in which nothing is remembered.
WIDTHS = 0.01, 0.05

# The share of the samples that is spread evenly, so that no sample hangs on a vanishing density.
EVENLY = 0.01


class GaussianBasis(nn.Module):
    """N normal densities on a grid over [0, 1], half of them narrow and half wide."""

    mean: Tensor
    variance: Tensor

    def __init__(self, size: int, widths: tuple[float, float] | None = None) -> None:
        super().__init__()
        spacing = 1 / (size // 2 - 1)
        if widths is None:
            widths = max(WIDTHS[0], spacing), max(WIDTHS[1], 2 * spacing)
        grid = torch.linspace(0, 1, size // 2, dtype=torch.double)
        width = torch.tensor(widths, dtype=torch.double).repeat_interleave(size // 2)
        self.register_buffer("mean", grid.repeat(2), persistent=False)
        self.register_buffer("variance", width.square(), persistent=False)

    @override
    def forward(self, position: Float[Tensor, "*B"]) -> Float[Tensor, "*B N"]:
        """The densities at these positions."""
        return self.expectation(position, torch.zeros_like(position))

    def expectation(
        self, mean: Float[Tensor, "*B"], variance: Float[Tensor, "*B"]
    ) -> Float[Tensor, "*B N"]:
        """The mean of each basis function under normal densities."""
        total = self.variance + variance.unsqueeze(-1)
        distance = mean.unsqueeze(-1) - self.mean
        return torch.exp(-0.5 * distance.square() / total) * (2 * math.pi * total).rsqrt()


class ContinuousMemory(nn.Module):
    """Folds segments into coefficients; all its matrices depend on positions alone.

    Args:
        basis_functions: An even number, 4 at least.
        widths: Standard deviations of the narrow and the wide half; None: the published ones, or
            wider where the grid asks for it.
        segment: Vectors that are folded at once.
        samples: Points at which the old signal is read when it is fitted again.
        contraction: The part of [0, 1] that the old signal keeps, in (0, 1).
        ridge: The penalty on the size of coefficients.
    """

    first: Tensor
    new: Tensor
    old: Tensor
    contract: Tensor
    even: Tensor

    def __init__(
        self,
        basis_functions: int,
        widths: tuple[float, float] | None,
        segment: int,
        samples: int,
        contraction: float,
        ridge: float,
    ) -> None:
        super().__init__()
        self.basis = GaussianBasis(basis_functions, widths)
        index = torch.arange(1, samples + 1, dtype=torch.double)
        places = torch.arange(1, segment + 1, dtype=torch.double) / segment
        joined = torch.cat(
            [contraction * index / samples, contraction + (1 - contraction) * places]
        )
        fitted = regression(self.basis, joined, beside(samples + segment), ridge)
        first = regression(self.basis, centres(segment), beside(segment), ridge)
        matrices = {
            "first": first.mT,
            "old": fitted[:samples].mT,
            "new": fitted[samples:].mT,
            "contract": fitted[:samples].mT @ self.basis(index / samples),
            # where the samples lie in a histogram, from 0 to 1
            "even": (index - 0.5) / samples,
        }
        for name, matrix in matrices.items():
            self.register_buffer(name, matrix, persistent=False)
        self.float()

    def fold(
        self,
        coefficients: Float[Tensor, "R N D"],
        segment: Float[Tensor, "R S D"],
        holds: Bool[Tensor, " R"],
        histogram: Float[Tensor, "R Q"] | None,
    ) -> Float[Tensor, "R N D"]:
        """The coefficients after a segment.

        Args:
            coefficients: The coefficients before it.
            segment: Its vectors, the oldest first.
            holds: Whether anything was folded before; if not, the segment takes all of [0, 1].
            histogram: Attention in equal bins: where there was more, the old signal is sampled
                more densely, and so keeps more room. None: evenly.
        """
        if histogram is None:
            kept = self.contract @ coefficients
        else:
            kept = self.old @ (self.basis(quantiles(histogram, self.even)) @ coefficients)
        holds = holds[:, None, None]
        added = torch.where(holds, self.new, self.first) @ segment
        return torch.where(holds, kept, 0.0) + added


def centres(length: int) -> Float[Tensor, " L"]:
    """The middles of L equal cells of [0, 1]."""
    return (torch.arange(length, dtype=torch.double) + 0.5) / length


def beside(length: int) -> Float[Tensor, " P"]:
    """The same grid half a unit to either side of [0, 1], where zeros are fitted."""
    half = length // 2
    outside = torch.cat([torch.arange(-half, 0), torch.arange(length, length + half)])
    return (outside.double() + 0.5) / length


def regression(
    basis: GaussianBasis, at: Float[Tensor, " L"], zeros_at: Float[Tensor, " P"], ridge: float
) -> Float[Tensor, "L N"]:
    """The matrix G of ridge regression: the coefficients of vectors X at these positions are G^T X.

    Args:
        basis: The functions whose sum is the signal.
        at: Positions of the vectors.
        zeros_at: Positions where zeros are fitted as well.
        ridge: The penalty on the size of coefficients.
    """
    features = basis(torch.cat([at, zeros_at]))
    penalty = ridge * torch.eye(features.shape[-1], dtype=features.dtype)
    return torch.linalg.solve(features.mT @ features + penalty, features[: len(at)].mT).mT


def mass_in_bins(
    mean: Float[Tensor, "*B"], variance: Float[Tensor, "*B"], edges: Float[Tensor, " Q1"]
) -> Float[Tensor, "*B Q"]:
    """The mass of each normal density in each bin."""
    distance = (edges - mean.unsqueeze(-1)) * variance.rsqrt().unsqueeze(-1)
    return torch.special.ndtr(distance).diff(dim=-1)


def quantiles(histogram: Float[Tensor, "R Q"], levels: Float[Tensor, " M"]) -> Float[Tensor, "R M"]:
    """Quantiles of a histogram over [0, 1], interpolated inside a bin.

    Fixed levels take the place of random draws, so that a sequence always gives the same numbers.
    """
    bins = histogram.shape[-1]
    share = histogram / histogram.sum(dim=-1, keepdim=True).clamp_min(1e-6)
    share = share + EVENLY / bins
    reached = (share / share.sum(dim=-1, keepdim=True)).cumsum(dim=-1)
    levels = levels.expand(histogram.shape[0], -1).contiguous()
    found = torch.searchsorted(reached, levels).clamp(max=bins - 1)
    before = torch.cat([torch.zeros_like(reached[:, :1]), reached[:, :-1]], dim=-1)
    low, high = before.gather(-1, found), reached.gather(-1, found)
    return (found + (levels - low) / (high - low)) / bins
