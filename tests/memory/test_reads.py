"""Recall maps of every core: exact maps, or a reason why there are none."""

import pytest
import torch

from fwrl.core import MemoryCore
from fwrl.cores import CORES
from fwrl.inspection.reads import GIVEN, is_linear, reads_of, remark
from fwrl.inspection.recall_map import contributions, recall_map, values_of

B, T, D = 2, 7, 16
VARIANTS = {name: (name, {}) for name in CORES} | {
    "sum, normalised": (
        "fast_weight",
        {"update_rule": "sum", "feature_map": "elu_plus_one", "attention_normaliser": True},
    ),
    "delta, normalised": (
        "fast_weight",
        {"update_rule": "delta", "feature_map": "elu_plus_one", "attention_normaliser": True},
    ),
    "gated sum, normalised": (
        "fast_weight",
        {"update_rule": "gated_sum", "feature_map": "elu_plus_one", "attention_normaliser": True},
    ),
    "kda": ("fast_weight", {"update_rule": "kda", "learned_initial_state": True}),
    "gated delta 2": ("fast_weight", {"update_rule": "gated_delta_2", "max_beta": 2}),
    "efla": ("fast_weight", {"update_rule": "efla", "normalise": "none"}),
    "gated delta": ("fast_weight", {"update_rule": "gated_delta", "short_convolution": 3}),
    "products": ("fast_weight", {"num_householder": 3, "key_size": 3}),
    "clipped": ("fast_weight", {"update_rule": "clipped_delta"}),
    "delta_rnn, 1": ("delta_rnn", {"version": 1}),
    "delta_lstm, 1": ("delta_lstm", {"version": 1}),
    "delta_delta, learned": ("delta_delta", {"learned_initial_state": True}),
    "hybrid, delta alone": ("hybrid", {"window": 0, "short_convolution": 3}),
    "hybrid, window alone": ("hybrid", {"delta": False}),
    "delta_mlp, deep": ("delta_mlp", {"blocks": 2, "expansion": 2}),
}
every_variant = pytest.mark.parametrize("name", VARIANTS)


def unrolled(name):
    torch.manual_seed(0)
    kind, options = VARIANTS[name]
    core = CORES[kind](**options).build(D).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    starts = torch.zeros(B, T, dtype=torch.bool)
    starts[0, 0] = starts[:, 3] = starts[1, 5] = True
    x, state = torch.randn(B, T, D).double(), core.initial_state(B)
    y, _ = core.unroll(x, state, starts)
    return core, y, reads_of(core, x, state, starts)


@every_variant
def test_what_is_read_is_the_sum_of_what_was_written(name):
    core, _, reads = unrolled(name)
    text = remark(core, reads)
    assert text.startswith(GIVEN if reads and is_linear(reads[0]) else "no exact map; ")
    for read in filter(is_linear, reads):
        values = values_of(read)
        total = torch.zeros_like(values)
        for time, part in contributions(read):
            total[:, max(time, 0) :] += part
        torch.testing.assert_close(total, values)
        share, before = recall_map(read)
        assert share.shape[1] == share.shape[3] == T
        whole = (share.sum(-1) + before)[:, :, :-1]
        values = values[:, read.writes - 1 :: read.writes]
        # some begin by asking for nothing
        torch.testing.assert_close(whole, values.any(-1).double())


@pytest.mark.parametrize(
    "name", ["fast_weight", "kda", "gated delta 2", "efla", "gated delta", "products"]
)
def test_reads_of_fast_weights_are_what_the_core_puts_out(name):
    core, y, (read,) = unrolled(name)
    values = values_of(read)[:, read.writes - 1 :: read.writes]
    torch.testing.assert_close(core.output(values.flatten(-2)), y)


@pytest.mark.parametrize("name", ["sum, normalised", "delta, normalised", "gated sum, normalised"])
def test_normalised_reads_point_where_the_core_puts_out(name):
    core, y, (read,) = unrolled(name)
    values = values_of(read)
    assert values.shape[-1] == core.value_size
    # each head was divided by a number of its own: its output is a multiple of what was read
    weight = core.output.weight.view(D, core.heads, core.value_size)
    parts = torch.einsum("bthv,dhv->bthd", values, weight)
    fit = torch.linalg.lstsq(parts.mT, y.unsqueeze(-1)).solution
    torch.testing.assert_close((parts.mT @ fit).squeeze(-1), y)


@pytest.mark.parametrize("name", ["recurrent_delta", "slow_rnn", "delta_rnn", "mesa", "rwkv7"])
def test_reads_of_other_cores_are_what_they_put_out(name):
    core, y, reads = unrolled(name)
    values = sum(map(values_of, reads))
    out = core._out(values) if name == "rwkv7" else None
    if name == "mesa":
        out = core.output(values.flatten(-2))
    torch.testing.assert_close(core.output(values) if out is None else out, y)


@pytest.mark.parametrize("name", ["delta_delta", "delta_mlp"])
def test_the_last_memory_of_several_is_nearest_to_the_output(name):
    core, y, reads = unrolled(name)
    last = values_of(reads[-1])
    if name == "delta_delta":
        torch.testing.assert_close(core.output(last), y)
    assert [read.name for read in reads] == {
        "delta_delta": ["programming memory", "programmed memory"],
        "delta_mlp": ["block 1, layer 1", "block 1, layer 2"],
    }[name]


def test_every_core_says_what_its_map_is():
    for name, config in CORES.items():
        core = config().build(D)
        assert name == "fast_weight" or core.remark != MemoryCore.remark


def test_the_read_of_mamba_is_what_its_state_adds_before_gate_and_norm():
    core, _, _ = unrolled("mamba2")
    x = torch.randn(B, T, D).double()
    starts = torch.zeros(B, T, dtype=torch.bool)
    (read,) = reads_of(core, x, core.initial_state(B), starts)
    seen = []
    core.norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    core.unroll(x, core.initial_state(B), starts)
    with torch.no_grad():
        gate = core.project(x)[..., : core.inner]
        values = values_of(read) + core.skip * read.inputs.write.value
    torch.testing.assert_close(seen[0], values.flatten(-2) * torch.nn.functional.silu(gate))
