"""The GPU kernels equal the reference: on a GPU, or small ones in Triton's interpreter."""

import importlib
import subprocess
import sys

import pytest
import torch
from kernel_parity import assert_equals_reference, random_scan

from fwrl import UPDATE_RULES, Write, scan, use_kernel
from fwrl.kernels.chunked import scan as chunked
from fwrl.kernels.triton import on_gpu
from fwrl.update_rules import delta_rule, kda_rule

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RULES = sorted(name for name, rule in UPDATE_RULES.items() if chunked.computes(rule))


@pytest.fixture
def triton_scan():
    """The module, interpreted where there is no GPU; a scan must then be short."""
    pytest.importorskip("triton")
    return importlib.import_module("fwrl.kernels.triton.scan")


def small(name, times, density, fresh_streams=1, sizes=(2, 1, 5, 3)):
    leaves, starts = random_scan(name, times, density, torch.float32, fresh_streams, sizes)
    return [leaf.detach().to(DEVICE).requires_grad_() for leaf in leaves], starts.to(DEVICE)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_equals_the_reference(triton_scan, name):
    torch.manual_seed(0)
    leaves, starts = small(name, 19, 0.15)
    assert_equals_reference(UPDATE_RULES[name], leaves, starts, "triton", 1e-5)


@pytest.mark.parametrize(("times", "density"), [(1, 0), (1, 1), (4, 0), (9, 1), (13, 0.3)])
@pytest.mark.parametrize("with_fresh", [True, False])
def test_spans_and_starts(triton_scan, times, density, with_fresh, monkeypatch):
    monkeypatch.setattr(triton_scan, "SPAN", 4)
    torch.manual_seed(times)
    leaves, starts = small("gated_delta", times, density, fresh_streams=2)
    assert_equals_reference(UPDATE_RULES["gated_delta"], leaves, starts, "triton", 1e-5, with_fresh)


def test_blocks_of_columns_add_up(triton_scan, monkeypatch):
    monkeypatch.setattr(triton_scan, "MAX_COLUMNS", 4)
    torch.manual_seed(0)
    leaves, starts = small("gated_delta", 6, 0.2, sizes=(2, 2, 3, 9))
    assert triton_scan.grid_of(leaves[-2]).programs == (4, 3)
    assert_equals_reference(UPDATE_RULES["gated_delta"], leaves, starts, "triton", 1e-5)


@pytest.mark.parametrize("name", ["delta", "decayed_sum"])
@pytest.mark.parametrize("poisoned", ["inputs", "state"])
def test_nothing_undefined_passes_a_start(triton_scan, name, poisoned):
    leaves, starts = small(name, 14, 0)
    starts[:, [5, 12]] = True
    clean = scan(UPDATE_RULES[name], leaves[-2], leaves[0], Write(*leaves[1:7]), starts)
    with torch.no_grad():
        for leaf in leaves[-2:-1] if poisoned == "state" else leaves[:7]:
            leaf[:, :5] = torch.nan
        leaves[1][:, 12:] = torch.nan
    query, *write, state, _ = leaves
    values, end = scan(UPDATE_RULES[name], state, query, Write(*write), starts, kernel="triton")
    assert values[:, :5].isnan().all()
    assert end.isnan().all()
    torch.testing.assert_close(values[:, 5:12], clean[0][:, 5:12], atol=1e-5, rtol=1e-5)
    # neither from the past nor from the future
    gradients = torch.autograd.grad(values.square().sum() + end.sum(), leaves[:3])
    assert all(gradient[:, 5:12].isfinite().all() for gradient in gradients)


def test_the_given_state_is_left_as_it_was(triton_scan):
    (query, *write, state, _), starts = small("delta", 5, 0.3)
    before = state.detach().clone()
    scan(delta_rule, state, query, Write(*write), starts, kernel="triton")
    assert torch.equal(state, before)


def test_what_cannot_run_is_refused_in_one_line(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    (query, *write, state, _), starts = random_scan("delta", 5, 0.3, torch.float32)
    write = Write(*write)
    with pytest.raises(ValueError, match="'triton' needs a CUDA device, not 'cpu'; use 'auto'"):
        scan(delta_rule, state, query, write, starts, kernel="triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with (
        pytest.raises(ValueError, match="'triton' needs float32, not float64"),
        use_kernel("triton"),
    ):
        scan(delta_rule, state, query.double(), write, starts)
    monkeypatch.setattr(on_gpu, "MAX_FEATURES", 3)
    with pytest.raises(ValueError, match="'triton' needs at most 3 key features, not 4"):
        scan(delta_rule, state, query, write, starts, kernel="triton")
    with pytest.raises(ValueError, match="a rule with one decay per head or none, not kda_rule"):
        scan(kda_rule, state, query, write, starts, kernel="triton")


def test_fwrl_does_not_import_triton():
    code = "import sys, fwrl; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", RULES)
def test_a_gpu_takes_them_by_itself(name, cuda, caplog):
    pytest.importorskip("triton")
    torch.manual_seed(0)
    leaves, starts = random_scan(name, 100, 0.05, torch.float32, sizes=(4, 2, 40, 24))
    leaves = [leaf.detach().to(cuda).requires_grad_() for leaf in leaves]
    with caplog.at_level("DEBUG", logger="fwrl.kernels"):
        assert_equals_reference(UPDATE_RULES[name], leaves, starts.to(cuda), "auto", 1e-4)
    assert f"{name}_rule over 100 times: triton" in caplog.text
