"""The scan in C from the projections on: every variant equals the reference in float64."""

import pytest
import torch

from fwrl.cores.fast_weight import FastWeightConfig, State
from fwrl.kernels import use_kernel
from fwrl.kernels.native import library as loading

pytestmark = pytest.mark.skipif(loading.library().functions is None, reason=loading.library().about)

# what the core hands over; gated sums and implicit betas it does not
every_rule = pytest.mark.parametrize("rule", ["sum", "delta", "gated_delta"])
# input size, and settings: whole vectors of every width; less than one; some and a rest
SIZES = [
    (128, {}),
    (64, {"heads": 1}),
    (24, {"heads": 2, "key_size": 6, "value_size": 16}),
    (40, {"heads": 2, "key_size": 33, "value_size": 17, "max_beta": 2}),
    (130, {"heads": 1, "key_size": 3, "value_size": 80, "learned_initial_state": True}),
    (40, {"heads": 2, "key_size": 9, "value_size": 17, "short_convolution": 4}),
    (32, {"heads": 1, "short_convolution": 1, "learned_initial_state": True}),
]


def problem(rule, input_size, settings, times, streams=3):
    torch.manual_seed(times)
    core = FastWeightConfig(update_rule=rule, **settings).build(input_size)
    state = core.initial_state(streams)
    state = type(state)(*(torch.randn_like(leaf) for leaf in state))
    return core, torch.randn(streams, times, input_size), state, torch.rand(streams, times) < 0.15


def everything(problem, kernel, dtype=torch.float32):
    """Outputs, the last weights, and the gradients of all that has one, by name."""
    core, x, state, starts = problem
    core.to(dtype)
    x, *state = (leaf.detach().to(dtype).requires_grad_() for leaf in (x, *state))
    with use_kernel(kernel):
        y, end = core.unroll(x, State(*state), starts)
    generator = torch.Generator().manual_seed(0)
    loss = sum(
        (leaf * torch.randn(leaf.shape, dtype=torch.double, generator=generator).to(dtype)).sum()
        for leaf in (y, *end)
    )
    leaves = {"x": x, **State(*state)._asdict(), **dict(core.named_parameters())}
    found = torch.autograd.grad(loss, leaves.values(), allow_unused=True, materialize_grads=True)
    core.to(torch.float32)
    outputs = {"y": y.detach(), "end": end.weights.detach(), "recent end": end.recent.detach()}
    return outputs | dict(zip(leaves, found, strict=True))


def assert_equal(problem):
    truth = everything(problem, "reference", torch.float64)
    for name, fast in everything(problem, "native").items():
        # sums of gradients of either sign may nearly vanish
        largest = truth[name].abs().max().item() if truth[name].numel() else 0.0
        atol = 1e-5 * max(1.0, largest)
        torch.testing.assert_close(fast.double(), truth[name], atol=atol, rtol=1e-5, msg=name)


@pytest.mark.unchecked
@every_rule
@pytest.mark.parametrize(("input_size", "settings"), SIZES)
def test_it_equals_the_reference_for_any_size(rule, input_size, settings, variant):
    for times in (1, 37):
        assert_equal(problem(rule, input_size, settings, times))


@pytest.mark.unchecked
@every_rule
@pytest.mark.parametrize("times", [2, 15, 16, 17, 64, 129])
def test_it_equals_the_reference_for_any_length(rule, times):
    assert_equal(problem(rule, 24, {"heads": 2, "key_size": 5, "value_size": 16}, times))


@every_rule
@pytest.mark.parametrize("density", [0, 1])
def test_every_time_or_none_may_start(rule, density):
    core, x, state, starts = problem(rule, 16, {"heads": 2}, 20)
    assert_equal((core, x, state, torch.full_like(starts, density)))


@every_rule
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nothing_undefined_passes_a_start_or_to_other_streams(rule, poison, variant):
    core, x, state, _ = problem(rule, 32, {"heads": 1}, 40)
    starts = torch.zeros(3, 40, dtype=torch.bool)
    starts[:, 20] = True
    clean, _ = core.unroll(x, state, starts)
    x[1, 7:20] = poison
    x.requires_grad_()
    y, end = core.unroll(x, state, starts)
    assert y[1, 7:20].isnan().all()
    kept = torch.ones(3, 40, dtype=torch.bool)
    kept[1, 7:20] = False
    torch.testing.assert_close(y[kept], clean[kept], rtol=0, atol=0)
    (y[:, 20:].sum() + end.weights.sum()).backward()
    assert x.grad[:, 20:].isfinite().all()


@every_rule
def test_threads_and_repetition_change_nothing(rule, monkeypatch):
    monkeypatch.setattr(loading, "WORTH_A_THREAD", 1)
    given, before = problem(rule, 16, {"heads": 2}, 40), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 1, 2):
            torch.set_num_threads(threads)
            results.append(everything(given, "native"))
    finally:
        torch.set_num_threads(before)
    for name, first in results[0].items():
        # the scan itself; PyTorch's products of the layer may add up in another order
        exact = {"rtol": 0, "atol": 0}
        torch.testing.assert_close(results[1][name], first, **exact)
        torch.testing.assert_close(results[2][name], first, atol=1e-5, rtol=1e-5)


def test_others_are_computed_as_before(monkeypatch):
    def unexpected(*_):
        raise AssertionError("the library was called")

    core, x, state, starts = problem("delta", 16, {"heads": 2}, 5)
    functions = loading.library().functions
    monkeypatch.setattr(functions, "fwrl_projected_scan_forward", unexpected)
    with pytest.raises(AssertionError, match="was called"):
        core.unroll(x, state, starts)
    for kernel in ("reference", "chunked"):
        with use_kernel(kernel):
            core.unroll(x, state, starts)
    with torch.autocast("cpu", torch.bfloat16):
        core.unroll(x, state, starts)
    for setting in ({"num_householder": 2}, {"feature_map": "dpfp"}):
        other, x, state, starts = problem("delta", 16, {"heads": 2, **setting}, 5)
        other.unroll(x, state, starts)
    core, state = core.double(), core.double().initial_state(3)
    assert core.unroll(x.double(), state, starts)[0].dtype == torch.float64


def test_the_operator_keeps_the_rules_of_torch():
    torch.manual_seed(0)
    projected = torch.randn(2, 20, 2 * 2 * 4 + 2 * 3 + 2, requires_grad=True)
    shapes = ((2,), (2, 20, 2, 1), (2, 2, 4, 3), (1, 2, 4, 3))
    leaves = [torch.rand(shape, requires_grad=True) for shape in shapes]
    given = (projected, *leaves, torch.rand(2, 20) < 0.1, True, 1e-6, 1.0, True)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.fwrl.projected_scan, given, test_utils=checks)
