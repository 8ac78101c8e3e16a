"""Recurrent fast weight programmers against their equations, followed one time at a time."""

import re

import numpy_fast_weight_rnns as equations
import pytest
import torch

from fwrl.config import ConfigError
from fwrl.cores import CORES
from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.cores.parts.fast_recurrence import FastRecurrence

B, T, D, H = 2, 9, 12, 3
K = D // H
EVERY = ["delta_delta", "delta_lstm", "delta_mlp", "delta_rnn", "recurrent_delta", "slow_rnn"]


def build(kind, **settings):
    torch.manual_seed(3)
    core = CORES[kind](heads=H, **settings).build(D).double()
    with torch.no_grad():
        for name, parameter in core.named_parameters():
            # large enough for every squashing to bend
            if "start" not in name:
                parameter.copy_(torch.randn_like(parameter))
    return core


def inputs():
    torch.manual_seed(4)
    starts = torch.zeros(B, T, dtype=torch.bool)
    starts[0, 4] = starts[1, 0] = starts[1, 7] = True
    return torch.randn(B, T, D, dtype=torch.double), starts


def unrolled(core):
    x, starts = inputs()
    return core.unroll(x, core.initial_state(B), starts)[0]


@pytest.mark.parametrize(
    ("head", "kind", "settings"),
    [
        (equations.DeltaDelta, "delta_delta", {}),
        (equations.DeltaDelta, "delta_delta", {"learned_initial_state": True}),
        (equations.DeltaMLP, "delta_mlp", {}),
        (equations.DeltaMLP, "delta_mlp", {"blocks": 2, "expansion": 3}),
        (equations.DeltaRNN, "delta_rnn", {}),
        (equations.DeltaRNN, "delta_rnn", {"version": 1}),
        (equations.DeltaRNN, "delta_rnn", {"feature_map": "softmax"}),
        *[(equations.DeltaLSTM, "delta_lstm", {"version": version}) for version in (1, 2, 3, 4)],
        (equations.RecurrentDelta, "recurrent_delta", {}),
        (equations.SlowRNN, "slow_rnn", {}),
        (equations.SlowRNN, "slow_rnn", {"forget_bias": 1.0}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_core_follows_its_equations(head, kind, settings):
    core = build(kind, **settings)
    x, starts = inputs()
    y, _ = core.unroll(x, core.initial_state(B), starts)
    expected = equations.run_equations(head, core, CORES[kind](heads=H, **settings), x, starts)
    assert expected.std() > 0.1
    torch.testing.assert_close(y, expected, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("kind", sorted(set(EVERY) - {"delta_mlp"}))
def test_scaled_outputs_are_divided_by_the_root_of_the_head_size(kind):
    plain, scaled = unrolled(build(kind)), unrolled(build(kind, scale_output=True))
    torch.testing.assert_close(scaled, plain / 2)


def delta_net(feature_map, **blocks):
    """The plain delta rule, its projections copied from those of another core."""
    normalise = "none" if feature_map == "softmax" else "sum"
    config = FastWeightConfig(
        heads=H, update_rule="delta", feature_map=feature_map, normalise=normalise
    )
    core = config.build(D).double()
    with torch.no_grad():
        names = ("query", "key", "value")
        core.project.weight.copy_(torch.cat([blocks[name].reshape(-1, D) for name in names]))
        core.beta.weight.copy_(blocks["beta"].reshape(-1, D))
        core.beta.bias.zero_()
        core.output.weight.copy_(blocks["output"])
    return core


def test_recurrent_delta_without_recurrence_is_a_delta_net_with_softmax():
    core = build("recurrent_delta")
    by_head = core.slow.project.weight.view(H, -1, D)
    query, key, value, beta = by_head.split([K, K, K, 1], dim=1)
    plain = delta_net(
        "softmax", query=query, key=key, value=value, beta=beta, output=core.output.linear.weight
    )
    assert not torch.allclose(unrolled(core), unrolled(plain))
    with torch.no_grad():
        core.recurrent.zero_()
    torch.testing.assert_close(unrolled(core), unrolled(plain), atol=1e-10, rtol=1e-8)


def parts_of(core):
    """The rows of the slow projection, by head: q, k, v, k', v', beta, beta'."""
    rows = core.slow.project.weight.detach().view(core.slow.heads, -1, D)
    return rows.split([K] * 5 + [1] * 2, dim=1)


@pytest.mark.parametrize("feature_map", ["elu_plus_one", "softmax"])
def test_delta_rnn_that_stores_no_recurrent_value_is_a_delta_net(feature_map):
    core = build("delta_rnn", feature_map=feature_map)
    query, key, value, _, recurrent_value, beta, _ = parts_of(core)
    output = core.output.linear.weight
    plain = delta_net(feature_map, query=query, key=key, value=value, beta=beta, output=output)
    assert not torch.allclose(unrolled(core), unrolled(plain))
    recurrent_value.zero_()
    torch.testing.assert_close(unrolled(core), unrolled(plain), atol=1e-10, rtol=1e-8)


def never_written(core, monkeypatch):
    """The core with recurrent strengths that are zero, which a sigmoid never quite is."""
    program = FastRecurrence._program

    def without_strength(self, x):
        query, write, (key, value, beta) = program(self, x)
        return query, write, (key, value, torch.zeros_like(beta))

    monkeypatch.setattr(FastRecurrence, "_program", without_strength)
    return core


def test_delta_rnn_that_never_writes_recurrently_is_a_delta_net(monkeypatch):
    core = never_written(build("delta_rnn"), monkeypatch)
    query, key, value, _, _, beta, _ = parts_of(core)
    output = core.output.linear.weight
    plain = delta_net("elu_plus_one", query=query, key=key, value=value, beta=beta, output=output)
    torch.testing.assert_close(unrolled(core), unrolled(plain), atol=1e-10, rtol=1e-8)


def test_delta_lstm_without_recurrence_keeps_the_past_only_by_decay(monkeypatch):
    core = never_written(build("delta_lstm"), monkeypatch)
    x, starts = inputs()
    _, state = core.unroll(x, core.initial_state(B), starts)
    h, cell = state.units
    moved = torch.randn_like(cell)
    y, after = core.step(x[:, 0], state)
    y_moved, after_moved = core.step(x[:, 0], state._replace(units=(h + 1, cell + moved)))
    # what h was does not matter, and what c was only by a factor in (0, 1), which x decides
    kept = (after_moved.units[1] - after.units[1]) / moved
    y_other, after_other = core.step(x[:, 0], state._replace(units=(h, cell + 2 * moved)))
    torch.testing.assert_close(after_other.units[1] - after.units[1], 2 * kept * moved)
    assert ((kept > 0) & (kept < 1)).all()
    torch.testing.assert_close(y_other - y, 2 * (y_moved - y))


def test_learned_weights_begin_between_one_and_two():
    core = CORES["delta_delta"](learned_initial_state=True).build(64)
    assert core.start.shape == (1, 4, 16, 49)
    assert 1 <= core.start.min() < 1.1
    assert 1.9 < core.start.max() < 2
    program, weights = core.initial_state(3)
    torch.testing.assert_close(program, core.start.expand(3, -1, -1, -1))
    assert not weights.any()


def test_recurrent_weights_begin_with_the_published_spread():
    core = CORES["recurrent_delta"](heads=2).build(128)
    assert core.recurrent.shape == (2, 64, 193)
    assert core.recurrent.std().item() == pytest.approx(1 / 8, rel=0.05)


def test_the_defaults_are_those_of_the_main_results():
    assert CORES["delta_rnn"]().version == 2
    assert CORES["delta_rnn"]().feature_map == "elu_plus_one"
    assert CORES["delta_lstm"]().version == 4
    assert CORES["delta_mlp"]().build(16).wide == 16
    assert CORES["slow_rnn"]().build(16).slow.forget_bias == 0
    assert not any(getattr(CORES[kind](), "scale_output", False) for kind in EVERY)


def test_slow_projections_have_the_published_sizes():
    sizes = {"delta_delta": 5 * K + 2, "recurrent_delta": 3 * K + 1, "delta_mlp": K + 10 * K + 2}
    for kind, size in sizes.items():
        assert build(kind).slow.project.out_features == H * size
    assert build("delta_rnn").slow.project.out_features == H * (5 * K + 2)
    assert build("delta_lstm").slow.project.out_features == H * (15 * K + 6)
    assert build("slow_rnn").slow.hidden_size == H * (3 * K + 1)


@pytest.mark.parametrize("kind", EVERY)
def test_heads_that_do_not_fit_are_refused(kind):
    message = f"{kind}: input_size 13 does not divide into 3 heads; use a multiple of 3"
    with pytest.raises(ConfigError, match=re.escape(message)):
        CORES[kind](heads=H).build(13)


@pytest.mark.parametrize("kind", EVERY)
def test_a_module_in_double_precision_computes_in_it_from_the_beginning(kind):
    core = build(kind)
    x, starts = inputs()
    for y, _ in (
        core.unroll(x, core.initial_state(B), starts),
        core.step(x[:, 0], core.initial_state(B)),
    ):
        assert y.dtype == torch.float64
