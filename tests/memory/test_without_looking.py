"""Where numbers may not decide what is computed, as on a GPU, masks compute the same."""

import importlib

import pytest
import torch

from fwrl import use_kernel
from fwrl.cores import CORES
from fwrl.cores.agalite import AGaLiTeConfig
from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.cores.infinite_former import InfiniteFormerConfig
from fwrl.state import may_look, tensors_in

# where it is asked
ASKING = [
    "fwrl.core",
    "fwrl.kernels",
    "fwrl.kernels.chunked.outer_decay",
    "fwrl.cores.parts.attention",
    "fwrl.cores.infinite_former",
    "fwrl.cores.fast_weight_memory",
]
MEMORIES = {kind: config(kind=kind) for kind, config in CORES.items()}
MEMORIES |= {
    "kda": FastWeightConfig(update_rule="kda"),
    "gated_delta_2": FastWeightConfig(update_rule="gated_delta_2"),
    "agalite, exact": AGaLiTeConfig(exact=True),
    "infinite_former, small": InfiniteFormerConfig(window=4, segment=3, sticky=True),
}


@pytest.mark.unchecked
@pytest.mark.parametrize("name", MEMORIES)
def test_masks_equal_what_is_looked_at(name, monkeypatch):
    torch.manual_seed(0)
    core = MEMORIES[name].build(16)
    x = torch.randn(2, 11, 16)
    starts = torch.zeros(2, 11, dtype=torch.bool)
    starts[0, [0, 6]] = starts[1, 3] = True
    never = torch.zeros(2, 5, dtype=torch.bool)
    with torch.no_grad():
        _, before = core.unroll(torch.randn(2, 5, 16), core.initial_state(2), never)

    def run():
        y, state = core.unroll(x, before, starts)
        loss = y.square().sum() + sum(leaf.float().sum() for leaf in tensors_in(state))
        found = torch.autograd.grad(loss, list(core.parameters()), allow_unused=True)
        return [y, *tensors_in(state), *(torch.zeros(()) if g is None else g for g in found)]

    # the loops in C take neither path
    with use_kernel("chunked") if name != "none" else use_kernel("reference"):
        looked = run()
        for module in ASKING:
            monkeypatch.setattr(importlib.import_module(module), "may_look", lambda x: False)
        masked = run()
    for one, other in zip(looked, masked, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)


def test_every_place_that_asks_is_known():
    for module in ASKING:
        assert importlib.import_module(module).may_look is may_look
