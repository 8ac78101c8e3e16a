"""Inputs so large that all gates are open or shut leave every memory finite, gradients included."""

import pytest
import torch

from fwrl.cores import CORES
from fwrl.state import tensors_in

B, T, D = 2, 70, 16


@pytest.mark.parametrize("kind", CORES)
def test_saturated_gates_leave_outputs_states_and_gradients_finite(kind):
    torch.manual_seed(0)
    core = CORES[kind]().build(D)
    with torch.no_grad():
        for parameter in core.parameters():
            # gates may begin without regard to the input
            parameter.add_(0.1 * torch.randn_like(parameter))
    for scale in (1e2, 1e4, 1e6):
        x = (scale * torch.randn(B, T, D)).requires_grad_()
        y, end = core.unroll(x, core.initial_state(B), torch.rand(B, T) < 0.05)
        sources = [x, *core.parameters()]
        gradients = torch.autograd.grad(y.sum(), sources, allow_unused=True)
        found = [y, *tensors_in(end), *(each for each in gradients if each is not None)]
        assert all(each.isfinite().all() for each in found), scale
