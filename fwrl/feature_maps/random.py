"""Random features: maps whose products estimate a kernel, most of them that of softmax attention.

Each function takes keys or queries of K numbers and R random directions. With
``x' = x * K ** -0.25`` the mean over directions of ``features(x') . features(y')`` is
``exp(x . y / sqrt(K))``, except for ``favor_relu``, which estimates another kernel. Sums of writes
with attention normalisation, of features that are not normalised, are then softmax attention over
the whole episode, up to the error of the estimate.

Note:
    The reference code subtracts a maximum over features and time before it takes exponentials.
    That looks into the future. Where the features of each time are normalised anyway, each time's
    own maximum does the same and cancels, so that is what is subtracted here: inputs of any size
    neither overflow nor vanish. Where they are not normalised nothing is subtracted, see ``favor``.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fwrl.state import without_autocast

Directions = Literal["orthogonal", "orthogonal_regularised", "independent"]

# Keeps rectified features positive (Choromanski et al. 2021).
RELU_FLOOR = 1e-3


def favor(
    x: Float[Tensor, "*B K"], directions: Float[Tensor, "R K"], normalised: bool
) -> Float[Tensor, "*B R"]:
    """Positive random features, FAVOR+ (Choromanski et al. 2021).

    Without normalisation no feature overflows for K up to about 128: for a direction ``w`` the
    exponent ``w . x - |x|^2 / 2`` never exceeds ``|w|^2 / 2``, which is about K / 2. But all
    features of a long ``x`` vanish.

    Args:
        x: Scaled, if that is wanted.
        directions: Distributed like standard normal vectors.
        normalised: Whether a factor that all features of one time share will cancel; it is then
            chosen so that the largest feature is 1.
    """
    return _exponentials(F.linear(x, directions), x, normalised)


def favor_hyperbolic(
    x: Float[Tensor, "*B K"], directions: Float[Tensor, "R K"], normalised: bool
) -> Float[Tensor, "*B 2*R"]:
    """Positive random features of each direction and its opposite (Choromanski et al. 2021).

    The errors of the two partly cancel, most where ``x + y`` is short. Overflows and vanishes as
    ``favor`` does.
    """
    along = F.linear(x, directions)
    return _exponentials(torch.cat([along, -along], dim=-1), x, normalised)


def favor_trigonometric(
    x: Float[Tensor, "*B K"], directions: Float[Tensor, "R K"], normalised: bool
) -> Float[Tensor, "*B 2*R"]:
    """Sines and cosines along random directions, half of them negative (Rahimi and Recht 2007).

    More exact than ``favor`` while logits are small; its relative error grows without bound where
    the kernel is near zero. Without normalisation it overflows where ``favor`` would vanish.
    """
    along = F.linear(x, directions)
    waves = torch.cat([along.sin(), along.cos()], dim=-1) / math.sqrt(directions.shape[0])
    return waves if normalised else waves * _half_square(x).exp()


def favor_relu(
    x: Float[Tensor, "*B K"], directions: Float[Tensor, "R K"], _normalised: bool
) -> Float[Tensor, "*B R"]:
    """Rectified random projections, always positive (Choromanski et al. 2021).

    The kernel is not that of softmax attention; it grows with the lengths, not exponentially.
    """
    return F.linear(x, directions).relu() / math.sqrt(directions.shape[0]) + RELU_FLOOR


def _exponentials(
    exponent: Float[Tensor, "*B M"], x: Float[Tensor, "*B K"], normalised: bool
) -> Float[Tensor, "*B M"]:
    if normalised:
        return (exponent - exponent.detach().amax(dim=-1, keepdim=True)).exp()
    return (exponent - _half_square(x)).exp() / math.sqrt(exponent.shape[-1])


def _half_square(x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B 1"]:
    return x.square().sum(dim=-1, keepdim=True) / 2


def random_directions(
    key_size: int,
    count: int,
    kind: Directions = "orthogonal",
    generator: torch.Generator | None = None,
) -> Float[Tensor, "R K"]:
    """Random rows that point everywhere equally often.

    Args:
        key_size: K, the length of a row.
        count: R, how many.
        kind: ``independent``: standard normal vectors. ``orthogonal``: each row is distributed
            like one, and the rows of each block of K are orthogonal, which estimates with less
            error. ``orthogonal_regularised``: their lengths are all sqrt(K) besides, which varies
            less still, around a kernel that is a little too small.
        generator: None: torch's global one.
    """
    if kind == "independent":
        return torch.randn(count, key_size, generator=generator)
    blocks = torch.randn(-(-count // key_size), key_size, key_size, generator=generator)
    rotation, triangle = torch.linalg.qr(blocks)
    # the decomposition fixes signs by a convention of its own; without this the rows lean to
    # one side and the estimate of the kernel is biased
    rotation = rotation * triangle.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    rows = rotation.flatten(0, 1)[:count]
    if kind == "orthogonal_regularised":
        return rows * math.sqrt(key_size)
    return rows * torch.randn(count, key_size, generator=generator).norm(dim=-1, keepdim=True)


class RandomFeatures(nn.Module):
    """Random features and their directions, which ``redraw_when_due`` replaces.

    Directions and age are buffers: they are saved with the module, and never change while it runs.
    """

    projection: Tensor
    age: Tensor

    def __init__(
        self,
        function: Callable[[Tensor, Tensor, bool], Tensor],
        key_size: int,
        num_features: int,
        *,
        directions: Directions = "orthogonal",
        scale_inputs: bool = True,
        redraw_every: int = 0,
        normalised: bool = False,
    ) -> None:
        super().__init__()
        self.function, self.normalised = function, normalised
        self.directions: Directions = directions
        self.scale = key_size**-0.25 if scale_inputs else 1.0
        self.redraw_every = redraw_every
        self.register_buffer("projection", random_directions(key_size, num_features, directions))
        self.register_buffer("age", torch.zeros((), dtype=torch.int64))

    def redraw(self, generator: torch.Generator | None = None) -> None:
        """Take new random directions; what was stored under the old ones is not found again.

        They are drawn on the CPU, whose generator checkpoints save: every device gets the same.
        """
        num_features, key_size = self.projection.shape
        rows = random_directions(key_size, num_features, self.directions, generator)
        self.projection.copy_(rows)

    @override
    def forward(self, x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B M"]:
        with without_autocast(x.device):
            return self.function(x * self.scale, self.projection.to(x.dtype), self.normalised)


def redraw_when_due(module: nn.Module) -> bool:
    """Count one update in each ``RandomFeatures`` of ``module``; whether any was due and redrawn.

    To be called between two updates that share nothing: what was acted on or stored before must
    not be replayed afterwards. A stream that goes on keeps its state, but no longer finds in it
    what it wrote before a redraw.
    """
    redrawn = False
    for part in module.modules():
        if isinstance(part, RandomFeatures) and part.redraw_every:
            part.age += 1
            if int(part.age) % part.redraw_every == 0:
                part.redraw()
                redrawn = True
    return redrawn
