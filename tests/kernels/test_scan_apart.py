"""Scans with a decay for each feature where no result may be looked at, as on a GPU."""

import pytest
import torch
from kernel_parity import B, assert_equals_reference, random_scan

from fwrl.kernels import KERNELS, reference
from fwrl.kernels.chunked import channelwise, outer_decay
from fwrl.update_rules import UPDATE_RULES, ScanInputs, Write

by_feature = pytest.mark.parametrize("name", ["kda", "gated_delta_2", "generalised_delta"])


@pytest.mark.unchecked
@by_feature
@pytest.mark.parametrize(("times", "density"), [(1, 1), (7, 0.3), (8, 0), (9, 0.1), (65, 0.1)])
def test_it_equals_the_reference(name, times, density, monkeypatch):
    monkeypatch.setitem(KERNELS, "chunked", channelwise.scan_apart)
    torch.manual_seed(times)
    leaves, starts = random_scan(name, times, density)
    assert_equals_reference(UPDATE_RULES[name], leaves, starts, "chunked", 1e-10, density > 0)


@by_feature
def test_no_decay_is_too_strong(name):
    torch.manual_seed(0)
    leaves, starts = random_scan(name, 40, 0.1, torch.float32)
    with torch.no_grad():
        leaves[4][:, 3::5] = 0.0
        leaves[4][:, 4::5] = 1e-9
        leaves[4][:, 16:32] = 0.0
    query, *write, state, fresh = leaves
    given = UPDATE_RULES[name], ScanInputs(state, query, Write(*write), starts, fresh)
    found = channelwise.scan_apart(*given)
    torch.testing.assert_close(found, reference.scan(*given), atol=1e-5, rtol=1e-5)
    loss = sum(x.square().sum() for x in found)
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    assert all(g.isfinite().all() for g in gradients if g is not None)


@by_feature
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("poisoned", ["query", "key", "value", "decay", "state"])
def test_nothing_undefined_passes_a_start(name, poison, poisoned):
    torch.manual_seed(0)
    leaves, _ = random_scan(name, 30, 0)
    starts = torch.zeros(B, 30, dtype=torch.bool)
    starts[0, 13] = True

    def run():
        query, *write, state, fresh = leaves
        inputs = ScanInputs(state, query, Write(*write), starts, fresh)
        return channelwise.scan_apart(UPDATE_RULES[name], inputs)

    clean = run()
    names = ["query", "key", "value", "beta", "decay", "removal_key", "removal_rate", "state"]
    with torch.no_grad():
        leaf = leaves[names.index(poisoned)]
        (leaf if poisoned == "state" else leaf[:, 5:7])[0] = poison
    values, end = run()
    assert values[0, 5:7].isnan().all()
    torch.testing.assert_close(values[0, 13:], clean[0][0, 13:])
    torch.testing.assert_close(values[1], clean[0][1])
    torch.testing.assert_close(end, clean[1])
    gradients = torch.autograd.grad(values[0, 13:].square().sum(), leaves[:5], allow_unused=True)
    assert all(g[0, 13:].isfinite().all() for g in gradients if g is not None)


def decaying_both_ways(dtype=torch.double):
    torch.manual_seed(0)
    x = [torch.randn(2, 30, 2, size, dtype=torch.double) for size in (4, 4, 3, 4, 3)]
    x[3:] = [decay.sigmoid() for decay in x[3:]]
    state = torch.randn(2, 2, 4, 3, dtype=torch.double)
    leaves = [leaf.to(dtype).requires_grad_() for leaf in (state, *x)]
    return leaves, torch.rand(2, 30) < 0.1


def test_decays_of_both_sides_equal_the_steps():
    (state, *x), starts = decaying_both_ways()
    outcomes = []
    for scan in (outer_decay.scan_by_steps, outer_decay.scan_apart):
        values, end = scan(state, outer_decay.Inputs(*x), starts)
        loss = values.square().sum() + end.square().sum()
        outcomes.append([values, end, *torch.autograd.grad(loss, [state, *x])])
    torch.testing.assert_close(*outcomes, atol=1e-10, rtol=1e-10)


def test_decays_of_both_sides_may_be_of_any_strength():
    (state, *x), starts = decaying_both_ways(torch.float32)
    with torch.no_grad():
        for decay in x[3:]:
            decay[:, 3::5], decay[:, 16:26] = 0.0, 1e-9
    inputs = outer_decay.Inputs(*x)
    expected = outer_decay.scan_by_steps(state, inputs, starts)
    found = outer_decay.scan_apart(state, inputs, starts)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("which", range(6))
def test_decays_of_both_sides_keep_what_is_undefined_before_a_start(which):
    leaves, starts = decaying_both_ways()
    starts[:] = False
    starts[:, 13] = True
    state, *x = leaves
    clean, clean_end = outer_decay.scan_apart(state, outer_decay.Inputs(*x), starts)
    with torch.no_grad():
        (leaves[which] if which == 0 else leaves[which][:, 5:7]).fill_(torch.nan)
    values, end = outer_decay.scan_apart(state, outer_decay.Inputs(*x), starts)
    assert values[:, 5:7].isnan().all()
    torch.testing.assert_close(values[:, 13:], clean[:, 13:])
    torch.testing.assert_close(end, clean_end)
