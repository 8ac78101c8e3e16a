"""Whether a scan can run on the GPU kernels, found out without importing Triton."""

import os
from functools import cache
from importlib.util import find_spec

import torch
from jaxtyping import Float
from torch import Tensor

from fwrl.kernels.chunked import scan as chunked
from fwrl.update_rules import Rule

# Key features, at most: more of them do not fit into the registers of one program.
MAX_FEATURES = 256


def check(rule: Rule, query: Float[Tensor, "B T H K"]) -> None:
    """Refuse what the GPU kernels cannot do.

    Raises:
        ValueError: With what is missing.
    """
    if obstacle := _obstacle(rule, query):
        raise ValueError(f"kernel 'triton' needs {obstacle}; use 'auto'")


def _obstacle(rule: Rule, query: Tensor) -> str | None:
    """The first requirement of the GPU kernels that is not met, if any."""
    if not chunked.computes(rule):
        return f"a rule with one decay per head or none, not {rule.apply.__name__}"
    if not query.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return f"a CUDA device, not {query.device.type!r}"
    if query.dtype != torch.float32:
        return f"float32, not {str(query.dtype).removeprefix('torch.')}"
    if query.shape[-1] > MAX_FEATURES:
        return f"at most {MAX_FEATURES} key features, not {query.shape[-1]}"
    return None if _installed() else "the package triton"


@cache
def _installed() -> bool:
    return find_spec("triton") is not None
