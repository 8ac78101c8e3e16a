"""The kernels in C: every variant equals the reference, and nothing else changes without them."""

import ctypes
import os
import re
import subprocess
import sys
from importlib import import_module

import pytest
import torch
from kernel_parity import (
    PER_CHANNEL,
    assert_equals_reference,
    random_scan,
    values_and_gradients,
)

from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.kernels import kernel_for, reference, scan, use_kernel
from fwrl.kernels.native import library as loading
from fwrl.kernels.native import scan as native
from fwrl.kernels.native import unit_silu as unit
from fwrl.kernels.native.c.build import SOURCES, build
from fwrl.update_rules import UPDATE_RULES, ScanInputs, Write, delta_rule

pytestmark = pytest.mark.skipif(loading.library().functions is None, reason=loading.library().about)

RULES = sorted(name for name, rule in UPDATE_RULES.items() if rule.form)
every_rule = pytest.mark.parametrize("name", RULES)
every_loop = pytest.mark.parametrize("name", ["gated_delta", "gated_delta_2", "generalised_delta"])
# whole vectors of every width; less than one; some and a rest
SIZES = [(32, 32), (3, 5), (16, 64), (33, 17), (4, 80)]


# more chunks than two take longer, and another density of starts changes nothing there
LENGTHS = [(times, density) for times in (1, 2, 63, 64, 65) for density in (0, 0.1, 1)]
LENGTHS += [(257, 0.1)]


@pytest.mark.unchecked
@every_rule
@pytest.mark.parametrize(("times", "density"), LENGTHS)
def test_it_equals_the_reference(name, times, density):
    torch.manual_seed(times)
    sizes = (2, 2, *SIZES[times % len(SIZES)])
    leaves, starts = random_scan(name, times, density, torch.float32, sizes=sizes)
    # without starts nobody reads the fresh state
    for with_fresh in (True, False) if starts.any() else (True,):
        assert_equals_reference(UPDATE_RULES[name], leaves, starts, "native", 2e-5, with_fresh)


@pytest.mark.unchecked
@every_rule
@pytest.mark.parametrize("size", SIZES)
def test_it_equals_the_reference_for_any_size(name, size, variant):
    torch.manual_seed(0)
    leaves, starts = random_scan(name, 37, 0.1, torch.float32, fresh_streams=2, sizes=(2, 3, *size))
    assert_equals_reference(UPDATE_RULES[name], leaves, starts, "native", 2e-5)


@every_loop
def test_inputs_may_lie_anywhere(name):
    torch.manual_seed(0)
    leaves, starts = random_scan(name, 40, 0.1, torch.float32, sizes=(2, 3, 8, 8))
    rule = UPDATE_RULES[name]
    expected = values_and_gradients(rule, leaves, starts, "reference")
    # heads before times; every second number; a slice of something wider
    wide = [
        leaf.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
        if leaf.shape[1] == 40
        else torch.stack([leaf.detach()] * 2, dim=-1)[..., 0].requires_grad_()
        for leaf in leaves
    ]
    wide[0] = torch.cat([leaves[0].detach()] * 3, dim=-1)[..., 8:16].requires_grad_()
    assert not wide[0].is_contiguous()
    assert not wide[1].is_contiguous()
    actual = values_and_gradients(rule, wide, starts.t().contiguous().t(), "native")
    for x, y in zip(expected, actual, strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-4)


@every_rule
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nothing_undefined_passes_a_start(name, poison):
    torch.manual_seed(0)
    leaves, _ = random_scan(name, 50, 0, torch.float32)
    starts = torch.zeros(2, 50, dtype=torch.bool)
    starts[:, 20] = True
    rule = UPDATE_RULES[name]
    query, *write, state, fresh = leaves
    clean, _ = scan(rule, state, query, Write(*write), starts, fresh, "native")
    with torch.no_grad():
        for leaf in (query, *write):
            leaf[:, :20] = poison
    values, end = scan(rule, state, query, Write(*write), starts, fresh, "native")
    torch.testing.assert_close(values[:, 20:], clean[:, 20:], rtol=0, atol=0)
    (values[:, 20:].sum() + end.sum()).backward()
    for leaf in (query, *write[:2]):
        assert leaf.grad[:, 20:].isfinite().all()


@pytest.mark.parametrize("name", sorted(PER_CHANNEL))
def test_decays_of_each_feature_may_be_of_any_strength(name):
    torch.manual_seed(0)
    leaves, starts = random_scan(name, 40, 0.1, torch.float32)
    with torch.no_grad():
        leaves[4][:, 3::5], leaves[4][:, 4::5] = 0.0, 1e-9
        leaves[4][:, 16:32] = 0.0
    assert_equals_reference(UPDATE_RULES[name], leaves, starts, "native", 2e-5)


@every_loop
def test_the_number_of_threads_changes_nothing(name, monkeypatch):
    monkeypatch.setattr(loading, "WORTH_A_THREAD", 1)
    torch.manual_seed(0)
    leaves, starts = random_scan(name, 40, 0.1, torch.float32, sizes=(3, 2, 16, 16))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(values_and_gradients(UPDATE_RULES[name], leaves, starts, "native"))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, atol=0, rtol=0)


@every_loop
def test_what_is_given_is_left_as_it_was(name):
    leaves, starts = random_scan(name, 20, 0.1, torch.float32)
    before = [leaf.detach().clone() for leaf in leaves]
    values_and_gradients(UPDATE_RULES[name], leaves, starts, "native")
    with torch.no_grad():
        query, *write, state, _ = leaves
        one = Write(*(field[:, 0] for field in write))
        native.step(UPDATE_RULES[name], state, query[:, 0], one)
    for leaf, expected in zip(leaves, before, strict=True):
        torch.testing.assert_close(leaf.detach(), expected, atol=0, rtol=0)


@every_rule
@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_one_time_is_a_sequence_of_one(name, size, variant):
    (query, *write, state, _), _ = random_scan(name, 1, 0, torch.float32, sizes=(3, 2, *size))
    rule = UPDATE_RULES[name]
    one = Write(*(field[:, 0] for field in write))
    values, end = native.step(rule, state, query[:, 0], one)
    nothing = torch.zeros(3, 1, dtype=torch.bool)
    inputs = ScanInputs(state, query, Write(*write), nothing)
    expected, expected_end = reference.scan(rule, inputs)
    torch.testing.assert_close(values, expected[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(end, expected_end, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "rule", ["sum", "delta", "gated_delta", "longhorn", "efla", "kda", "gated_delta_2"]
)
@pytest.mark.parametrize("output_norm", ["none", "rms"])
@pytest.mark.parametrize("max_beta", [1, 2])
def test_acting_equals_the_steps_of_torch(rule, output_norm, max_beta, variant):
    torch.manual_seed(0)
    config = FastWeightConfig(
        heads=2, key_size=6, value_size=16, update_rule=rule, output_norm=output_norm,
        max_beta=max_beta,
    )  # fmt: skip
    core = config.build(24)
    x, state = torch.randn(5, 24), core.initial_state(5)
    state = state._replace(weights=torch.randn_like(state.weights))
    expected = core.step(x, state)
    with torch.no_grad():
        actual = core.step(x, state)
        with use_kernel("reference"):
            truth = core.step(x, state)
    torch.testing.assert_close(actual, truth, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(expected, truth, atol=1e-5, rtol=1e-5)


# every structure is there once its module is
MODULES = ("adam", "choices", "recurrences", "residual", "rows")


def declared_fields():
    """The structures in c/calls.h: names and types of their fields."""
    text = re.sub(r"/\*.*?\*/", "", (loading.FOLDER / "calls.h").read_text(), flags=re.DOTALL)
    structures = {}
    for body, structure in re.findall(r"typedef struct \{(.*?)\} (\w+);", text, re.DOTALL):
        fields = structures[structure] = []
        for declaration in body.split(";")[:-1]:
            kind, names = declaration.strip().removeprefix("const ").split(maxsplit=1)
            if kind == "Loop":
                fields += structures["Loop"]
                continue
            for name in names.split(","):
                pointer = name.strip().startswith("*")
                fields.append((name.strip(" *"), "pointer" if pointer else kind))
    return structures


def test_every_call_has_the_fields_that_c_declares():
    declared = declared_fields()
    for name in MODULES:
        import_module(f"fwrl.kernels.native.{name}")
    types = {
        ctypes.c_int64: "int64_t",
        ctypes.c_double: "double",
        ctypes.c_void_p: "pointer",
        loading.Sequence: "Sequence",
    }
    structures = {
        each.__name__: [(name, types[kind]) for name, kind in each._fields_]
        for each in ctypes.Structure.__subclasses__()
        if each.__module__ == loading.__name__
    }
    structures["Loop"] = [(name, types[kind]) for name, kind in loading.LOOP.items()]
    assert structures == declared


def views():
    wide = torch.randn(3, 4, 50) * 3
    return {
        "whole": wide,
        "slice": wide[..., 8:40].unflatten(-1, (2, 2, 8)),
        "steps": wide[..., ::2],
        "transposed": wide.transpose(0, 1),
        "part": wide[:, 1:3],
        "one": torch.randn(7),
    }


@pytest.mark.parametrize("name", views())
def test_unit_addresses_equal_those_of_torch(name, variant):
    torch.manual_seed(0)
    x = views()[name].detach().requires_grad_()
    expected, actual = unit.unit_silu(x, native=False), unit.unit_silu(x, native=True)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)
    weight = torch.randn(expected.shape)
    truth, fast = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (expected, actual))
    torch.testing.assert_close(fast, truth, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [1e-9, 1.0, 80.0, 1e4])
def test_unit_addresses_of_any_size(size, variant):
    x = size * torch.linspace(-1, 1, 33)
    expected, actual = unit.unit_silu(x, native=False), unit.unit_silu(x, native=True)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)
    assert unit.unit_silu(torch.tensor([1.0, torch.nan]), native=True).isnan().all()


def test_the_operators_keep_the_rules_of_torch():
    (query, key, value, beta, decay, *_, state, fresh), starts = random_scan(
        "gated_delta", 20, 0.1, torch.float32
    )
    given = (query, key, value, beta, decay, state, fresh, starts, True)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.fwrl.scan, (*given, True), test_utils=checks)
    whole = decay.detach().expand_as(key).contiguous().requires_grad_()
    given = (query, key, value, key, whole, key, state, fresh, starts)
    torch.library.opcheck(torch.ops.fwrl.channel_scan, (*given, True), test_utils=checks)
    torch.library.opcheck(torch.ops.fwrl.unit_silu, (query,), test_utils=checks)


def test_without_the_library_all_goes_on(monkeypatch):
    monkeypatch.setattr(loading, "FOLDER", loading.FOLDER / "nowhere")
    loading.library.cache_clear()
    try:
        assert "not built" in loading.library().about
        assert kernel_for(delta_rule, torch.zeros(1, 9, 1, 1)) == "chunked"
        core = FastWeightConfig().build(16)
        with torch.no_grad():
            y, _ = core.step(torch.randn(2, 16), core.initial_state(2))
        assert y.isfinite().all()
        with pytest.raises(ValueError, match="not built"):
            kernel_for(delta_rule, torch.zeros(1, 9, 1, 1), "native")
    finally:
        loading.library.cache_clear()


@pytest.mark.slow
def test_a_library_of_other_sources_is_refused(tmp_path, monkeypatch):
    for name in SOURCES:
        (tmp_path / name).write_bytes((loading.FOLDER / name).read_bytes())
    build(tmp_path)
    with (tmp_path / "calls.h").open("a") as file:
        file.write("/* changed */\n")
    monkeypatch.setattr(loading, "FOLDER", tmp_path)
    loading.library.cache_clear()
    try:
        assert "other sources" in loading.library().about
    finally:
        loading.library.cache_clear()
    monkeypatch.setenv("CC", "false")
    with pytest.raises(subprocess.CalledProcessError):
        build(tmp_path)


COMPILED = """
import torch
from fwrl.cores.fast_weight import FastWeightConfig

core = FastWeightConfig(heads=2).build(16)
x, starts = torch.randn(2, 12, 16), torch.rand(2, 12) < 0.2
outputs = []
for unroll in (core.unroll, torch.compile(core.unroll)):
    y, _ = unroll(x, core.initial_state(2), starts)
    outputs += [y, *torch.autograd.grad(y.square().sum(), list(core.parameters()))]
half = len(outputs) // 2
torch.testing.assert_close(outputs[:half], outputs[half:], atol=1e-5, rtol=1e-4)
"""


@pytest.mark.slow
def test_it_can_be_compiled_over(tmp_path):
    # in a process without the type checks of the tests, which cannot be compiled; and without what
    # was compiled before, which would hide a change of the way back
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILED]
    subprocess.run(command, check=True, timeout=300, env=environment)
