"""Random choices in C: the same draw as in PyTorch, from the same noise, up to rounding."""

from ctypes import c_int64, c_void_p

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fwrl.kernels.native import library as c

DRAW = c.structure(
    "Draw",
    {
        **dict.fromkeys(("streams", "factors", "choices"), c_int64),
        **dict.fromkeys(("log_probs", "noise", "action", "log_prob"), c_void_p),
    },
)


def draw(
    log_probs: Float[Tensor, "B A n"], noise: Float[Tensor, "B A n"]
) -> tuple[Int[Tensor, "B A"], Float[Tensor, " B"]]:
    """Random choices by the Gumbel-max trick, and the sum of their log-probabilities.

    Args:
        log_probs: Of the choices of each factor.
        noise: Exponential random numbers.
    """
    log_probs, noise = log_probs.contiguous(), noise.contiguous()
    action = torch.empty(log_probs.shape[:-1], dtype=torch.int64)
    log_prob = log_probs.new_empty(log_probs.shape[0])
    places = [x.data_ptr() for x in (log_probs, noise, action, log_prob)]
    c.run("fwrl_draw", DRAW(*log_probs.shape, *places))
    return action, log_prob
