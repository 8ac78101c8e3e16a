"""The short convolution in C: every variant equals the one in PyTorch in float64."""

import pytest
import torch
from torch.nn import functional as F

from fwrl.cores.parts.layers import ShortConvolution
from fwrl.kernels import use_kernel
from fwrl.kernels.native import library as loading
from fwrl.kernels.native.convolution import convolution

pytestmark = pytest.mark.skipif(loading.library().functions is None, reason=loading.library().about)


def everything(layer, x, recent, starts, kernel, dtype):
    """The outputs, and the gradients of inputs and parameters."""
    layer.to(dtype)
    x, recent = (leaf.to(dtype).requires_grad_() for leaf in (x, recent))
    with use_kernel(kernel):
        y, end = layer(x, recent, starts)
    loss = (y * y.detach().cos()).sum() + (end * end.detach().sin()).sum()
    leaves = (x, recent, *layer.parameters())
    return [y.detach(), end.detach(), *torch.autograd.grad(loss, leaves, materialize_grads=True)]


@pytest.mark.unchecked
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("size", "channels"), [(1, 3), (2, 16), (4, 33), (7, 130)])
def test_it_equals_the_one_in_torch(size, channels, bias, variant):
    torch.manual_seed(size)
    layer = ShortConvolution(channels, size, bias)
    for times, density in ((1, 0.5), (3, 0.2), (40, 0.0), (40, 0.15), (40, 1.0)):
        x, recent = torch.randn(3, times, channels), torch.randn(3, size - 1, channels)
        given = (layer, x, recent, torch.rand(3, times) < density)
        truth = everything(*given, "reference", torch.float64)
        fast = everything(*given, "native", torch.float32)
        for one, other in zip(fast, truth, strict=True):
            torch.testing.assert_close(one.double(), other, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("silu_from", [0, 3, 5])
def test_some_channels_are_activated_and_the_rest_is_copied(silu_from):
    torch.manual_seed(0)
    layer, x = ShortConvolution(5, 4), torch.randn(2, 9, 7, requires_grad=True)
    recent, starts = torch.randn(2, 3, 5), torch.rand(2, 9) < 0.2
    y, end = convolution(x, layer.weight, recent, starts, silu_from)
    plain, last = layer(x[..., :5], recent, starts)
    whole = torch.cat([plain[..., :silu_from], F.silu(plain[..., silu_from:]), x[..., 5:]], -1)
    torch.testing.assert_close(y, whole)
    assert torch.equal(end, last)
    leaves = (x, layer.weight)
    found, truth = (torch.autograd.grad((each**2).sum(), leaves) for each in (y, whole))
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-5)


def test_step_by_step_it_has_the_same_bits():
    torch.manual_seed(0)
    x, weight = torch.randn(3, 20, 6), torch.randn(4, 5)
    recent, starts = torch.randn(3, 3, 5), torch.rand(3, 20) < 0.2
    whole, end = convolution(x, weight, recent, starts, 2)
    for t in range(20):
        y, recent = convolution(x[:, t : t + 1], weight, recent, starts[:, t : t + 1], 2)
        assert torch.equal(y, whole[:, t : t + 1])
    assert torch.equal(recent, end)


def test_nothing_undefined_passes_a_start(variant):
    torch.manual_seed(0)
    layer, x, recent = ShortConvolution(5, 4), torch.randn(2, 12, 5), torch.zeros(2, 3, 5)
    starts = torch.zeros(2, 12, dtype=torch.bool)
    starts[:, 8] = True
    x[0, 6:8] = float("nan")
    x.requires_grad_()
    y, _ = layer(x, recent, starts)
    assert y[0, 6:8].isnan().all()
    assert y[0, 8:].isfinite().all()
    y[:, 8:].sum().backward()
    assert x.grad[:, 8:].isfinite().all()


def test_the_operator_keeps_the_rules_of_torch():
    torch.manual_seed(0)
    leaves = [torch.randn(s, requires_grad=True) for s in ((2, 9, 7), (4, 5), (2, 3, 5))]
    given = (*leaves, torch.rand(2, 9) < 0.2, 3, True)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.fwrl.convolution, given, test_utils=checks)
