"""Every kernel equals the reference: outputs, end state, all gradients."""

import logging

import pytest
import torch
from kernel_parity import (
    PER_CHANNEL,
    B,
    H,
    K,
    assert_equals_reference,
    random_scan,
    values_and_gradients,
)
from torch.nn import functional as F

from fwrl.kernels import KERNELS, kernel_for, reference, scan, use_kernel
from fwrl.kernels.chunked import scan as chunked
from fwrl.kernels.native.library import library
from fwrl.update_rules import UPDATE_RULES, ScanInputs, Write, delta_rule, sum_rule

DENSITIES = [0, 0.02, 0.3, 1]
LENGTHS = [(times, density) for times in (1, 2, 16, 17, 65) for density in DENSITIES]
LENGTHS += [(63, 0.02), (64, 0.02), (257, 0.02)]

every_rule = pytest.mark.parametrize(
    "name", sorted(name for name, rule in UPDATE_RULES.items() if rule.form)
)
# those in C and those for a GPU have tests of their own: they know one precision, not every rule
TORCH_KERNELS = sorted(set(KERNELS) - {"native", "triton"})
torch_kernels = pytest.mark.parametrize("kernel", TORCH_KERNELS)
faster_kernels = pytest.mark.parametrize("kernel", sorted(set(TORCH_KERNELS) - {"reference"}))


NO_STRENGTH = ["delta", "gated_sum", "decayed_sum", "gated_delta", "kda", "longhorn", "efla"]


@pytest.mark.unchecked
@every_rule
@faster_kernels
@pytest.mark.parametrize(("times", "density"), LENGTHS)
def test_kernels_equal_the_reference_in_float64(name, kernel, times, density):
    torch.manual_seed(times)
    leaves, starts = random_scan(name, times, density)
    # without starts nobody reads the fresh state
    for with_fresh in (True, False) if starts.any() else (True,):
        assert_equals_reference(UPDATE_RULES[name], leaves, starts, kernel, 1e-10, with_fresh)


@pytest.mark.unchecked
@every_rule
@faster_kernels
@pytest.mark.parametrize("density", DENSITIES)
def test_kernels_equal_the_reference_in_float32(name, kernel, density):
    torch.manual_seed(0)
    leaves, starts = random_scan(name, 100, density, torch.float32, sizes=(2, 2, 32, 16))
    # the gradient of a decay near zero is a small difference of sums, divided by the decay
    tolerance = 2e-4 if name in PER_CHANNEL else 1e-5
    assert_equals_reference(UPDATE_RULES[name], leaves, starts, kernel, tolerance)


@every_rule
@pytest.mark.parametrize("chunk_size", [1, 3, 16, 200])
def test_any_chunk_size_gives_the_same(name, chunk_size, monkeypatch):
    monkeypatch.setattr(chunked, "CHUNK_SIZE", chunk_size)
    torch.manual_seed(0)
    leaves, starts = random_scan(name, 29, 0.1, fresh_streams=B)
    assert_equals_reference(UPDATE_RULES[name], leaves, starts, "chunked", 1e-10)


@faster_kernels
@pytest.mark.parametrize(("beta", "tolerance"), [(1, 1e-5), (2, 1e-3)])
def test_repeated_keys_do_not_ruin_float32(kernel, beta, tolerance, monkeypatch, caplog):
    # cosine 0.999 between all keys, as when an agent rests; a series in place of the substitution
    # is wrong by orders of magnitude here
    monkeypatch.setattr(chunked, "CHUNK_SIZE", 64)
    torch.manual_seed(0)
    leaves, starts = random_scan("delta", 128, 0, torch.double, sizes=(1, 2, 32, 32), spread=0.03)
    cosine = F.cosine_similarity(leaves[1][:, 1:], leaves[1][:, :-1], dim=-1)
    assert 0.998 < cosine.mean() < 0.9995
    leaves[3] = (beta * torch.ones_like(leaves[3])).requires_grad_()
    truth = values_and_gradients(delta_rule, leaves, starts, "reference")
    leaves = [leaf.detach().float().requires_grad_() for leaf in leaves]
    with caplog.at_level(logging.DEBUG, logger="fwrl.kernels"):
        fast = values_and_gradients(delta_rule, leaves, starts, kernel)
    # an overflow would go to the reference, which is right of course
    assert "again by reference" not in caplog.text
    for expected, actual in zip(truth, fast, strict=True):
        error = (expected - actual).norm() / expected.norm().clamp_min(1e-6)
        assert error < tolerance


@pytest.mark.unchecked
@every_rule
@faster_kernels
def test_gradcheck(name, kernel):
    torch.manual_seed(0)
    leaves, starts = random_scan(name, 5, 0.3, sizes=(1, 1, 2, 2))

    def run(query, *given):
        *write, state, fresh = given
        return scan(UPDATE_RULES[name], state, query, Write(*write), starts, fresh, kernel)

    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)


@torch_kernels
@pytest.mark.parametrize("name", NO_STRENGTH)
def test_a_write_of_no_strength_changes_nothing(name, kernel):
    leaves, _ = random_scan(name, 40, 0)
    query, key, value, beta, decay, *_, state, _ = leaves
    write = Write(key, value, torch.zeros_like(beta), torch.ones_like(decay))
    starts = torch.zeros(B, 40, dtype=torch.bool)
    values, end = scan(UPDATE_RULES[name], state, query, write, starts, kernel=kernel)
    torch.testing.assert_close(end, state)
    torch.testing.assert_close(values, torch.einsum("bthk,bhkv->bthv", query, state))


@every_rule
@torch_kernels
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("poisoned", ["inputs", "state"])
def test_a_start_forgets_even_an_undefined_past(name, kernel, poison, poisoned):
    leaves, _ = random_scan(name, 50, 0)
    query, *write, state, fresh = (leaf.detach().clone() for leaf in leaves)
    starts = torch.zeros(B, 50, dtype=torch.bool)
    starts[:, 20] = True
    clean = scan(UPDATE_RULES[name], state, query, Write(*write), starts, fresh, kernel)
    for tensor in [state] if poisoned == "state" else [query, *write]:
        tensor[:, :20] = poison
    poisoned = scan(UPDATE_RULES[name], state, query, Write(*write), starts, fresh, kernel)
    assert not poisoned[0][:, :20].isfinite().all()
    torch.testing.assert_close(poisoned[0][:, 20:], clean[0][:, 20:])
    torch.testing.assert_close(poisoned[1], clean[1])


@every_rule
@faster_kernels
def test_a_total_loss_of_memory_is_exact_enough(name, kernel):
    leaves, starts = random_scan(name, 40, 0.1, torch.float32)
    with torch.no_grad():
        leaves[3][:, 7::9] = 1.0
        leaves[4][:, 3::5] = 0.0
        leaves[4][:, 4::5] = 1e-6
    query, *write, state, _ = (leaf.detach() for leaf in leaves)
    rule = UPDATE_RULES[name]
    expected = scan(rule, state, query, Write(*write), starts, kernel="reference")
    actual = scan(rule, state, query, Write(*write), starts, kernel=kernel)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@torch_kernels
def test_the_given_state_is_left_as_it_was(kernel):
    (query, *write, state, _), starts = random_scan("delta", 20, 0.1)
    before = state.detach().clone()
    scan(delta_rule, state, query, Write(*write), starts, kernel=kernel)
    torch.testing.assert_close(state, before, atol=0, rtol=0)


@torch_kernels
def test_states_stay_float32_under_autocast(kernel):
    leaves, starts = random_scan("delta", 20, 0.1, torch.float32)
    query, *write, state, _ = leaves
    plain = scan(delta_rule, state, query, Write(*write), starts, kernel=kernel)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = scan(delta_rule, state, query, Write(*write), starts, kernel=kernel)
    torch.testing.assert_close(mixed, plain, atol=0, rtol=0)


@pytest.mark.parametrize("name", sorted(PER_CHANNEL))
def test_decays_too_strong_for_a_chunk_are_scanned_by_reference(name, caplog):
    leaves, starts = random_scan(name, 40, 0.1, torch.float32)
    with torch.no_grad():
        leaves[4].fill_(1e-6)
    with caplog.at_level(logging.DEBUG, logger="fwrl.kernels"):
        assert_equals_reference(UPDATE_RULES[name], leaves, starts, "chunked", 1e-12)
    assert "again by reference" in caplog.text


def rule_of_a_user(weights, write):
    return sum_rule(weights, write)


def sequence(times, dtype=torch.float32):
    return torch.zeros(B, times, H, K, dtype=dtype)


def test_the_choice_of_a_kernel_is_visible_and_can_be_forced(caplog):
    best = "chunked" if library().functions is None else "native"
    assert kernel_for(delta_rule, sequence(50)) == best
    assert kernel_for(delta_rule, sequence(50, torch.double)) == "chunked"
    assert kernel_for(delta_rule, sequence(1, torch.double)) == "reference"
    assert kernel_for(delta_rule, sequence(50), kernel="reference") == "reference"
    assert kernel_for(rule_of_a_user, sequence(50)) == "reference"
    leaves, starts = random_scan("delta", 20, 0)
    query, *write, state, _ = leaves
    with use_kernel("reference"), caplog.at_level(logging.DEBUG, logger="fwrl.kernels"):
        assert kernel_for(delta_rule, sequence(50)) == "reference"
        values, _ = scan(delta_rule, state, query, Write(*write), starts)
    assert caplog.messages == ["delta_rule over 20 times: reference"]
    assert kernel_for(delta_rule, sequence(50)) == best
    exact, _ = reference.scan(delta_rule, ScanInputs(state, query, Write(*write), starts))
    torch.testing.assert_close(values, exact, atol=0, rtol=0)


def test_wrong_kernels_are_refused_in_one_line():
    with pytest.raises(ValueError, match="kernel is 'chunkd'; did you mean 'chunked'"):
        kernel_for(delta_rule, sequence(2), kernel="chunkd")
    with pytest.raises(ValueError, match="no form of rule_of_a_user; use 'reference'"):
        kernel_for(rule_of_a_user, sequence(2), kernel="chunked")
    with pytest.raises(ValueError, match=r"not .*float64 on cpu under delta_rule"):
        kernel_for(delta_rule, sequence(2, torch.double), kernel="native")
    with pytest.raises(ValueError, match="under rule_of_a_user; use 'auto'"):
        kernel_for(rule_of_a_user, sequence(2), kernel="native")
    with pytest.raises(ValueError, match="kernel is 'fast'"), use_kernel("fast"):
        pass


@every_rule
@pytest.mark.parametrize("kernel", ["auto", "chunked"])
def test_gpu_equals_cpu(name, kernel, cuda):
    torch.manual_seed(0)
    leaves, starts = random_scan(name, 100, 0.05, torch.float32)
    expected = values_and_gradients(UPDATE_RULES[name], leaves, starts, "reference")
    on_gpu = [leaf.detach().to(cuda).requires_grad_() for leaf in leaves]
    actual = values_and_gradients(UPDATE_RULES[name], on_gpu, starts.to(cuda), kernel)
    torch.testing.assert_close(actual[0].cpu(), expected[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(actual[1].cpu(), expected[1], atol=1e-4, rtol=1e-4)
