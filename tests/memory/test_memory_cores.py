"""The contract of memory cores. A core listed in CORES is tested here without a new line."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fwrl import core as contract
from fwrl.core import state_size, unroll_by_steps
from fwrl.cores import CORES
from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.kernels import use_kernel
from fwrl.state import map_tensors, take_rows, tensors_in

B, T, D = 3, 6, 16

# each changes what the default core does; together they reach every branch of it
FAST_WEIGHTS = {
    "sum": {"update_rule": "sum", "feature_map": "elu_plus_one", "output_norm": "rms"},
    "normalised sum": {
        "update_rule": "sum",
        "feature_map": "dpfp",
        "nu": 2,
        "normalise": "sum",
        "attention_normaliser": True,
    },
    "delta": {"update_rule": "delta"},
    "normalised delta": {
        "update_rule": "delta",
        "feature_map": "elu_plus_one",
        "attention_normaliser": True,
        "normalise": "sum",
    },
    "normalised gated_sum": {
        "update_rule": "gated_sum",
        "feature_map": "favor",
        "num_features": 6,
        "attention_normaliser": True,
    },
    "random features": {
        "update_rule": "delta",
        "feature_map": "favor_hyperbolic",
        "num_features": 3,
        "directions": "orthogonal_regularised",
        "scale_inputs": False,
    },
    "gated_sum": {"update_rule": "gated_sum", "learned_initial_state": True},
    "normalised decayed_sum": {
        "update_rule": "decayed_sum",
        "feature_map": "elu_plus_one",
        "attention_normaliser": True,
    },
    "gated_delta": {"update_rule": "gated_delta", "learned_initial_state": True},
    "learned delta": {"update_rule": "delta", "learned_initial_state": True, "max_beta": 2},
    "kda": {"update_rule": "kda", "feature_map": "dpfp", "output_norm": "layer"},
    "gated_delta_2": {
        "update_rule": "gated_delta_2",
        "feature_map": "dpfp",
        "value_size": 5,
        "max_beta": 2,
        "learned_initial_state": True,
    },
    "longhorn": {"update_rule": "longhorn", "normalise": "none"},
    "efla": {"update_rule": "efla", "normalise": "none"},
    "clipped_delta": {"update_rule": "clipped_delta", "feature_map": "dpfp", "normalise": "none"},
    "sigmoid_sum": {"update_rule": "sigmoid_sum", "feature_map": "identity"},
    "products of two": {
        "update_rule": "delta",
        "num_householder": 2,
        "max_beta": 2,
        "learned_initial_state": True,
    },
    "gated products of three": {"num_householder": 3, "update_rule": "gated_delta"},
    "kda products of two": {"num_householder": 2, "update_rule": "kda"},
    "gated_delta_2 products of two": {"num_householder": 2, "update_rule": "gated_delta_2"},
    "convolution": {"update_rule": "delta", "short_convolution": 4},
    "gated convolution": {"short_convolution": 3},
    "normalised convolution": {
        "update_rule": "delta",
        "short_convolution": 2,
        "feature_map": "relu",
        "attention_normaliser": True,
    },
    "reference": {
        "update_rule": "delta",
        "kernel": "reference",
        "heads": 2,
        "key_size": 3,
        "value_size": 5,
    },
}
# windows so short that they run over, and segments so short that they are folded many times
FOLDED = {"window": 2, "segment": 2, "basis_functions": 8, "samples": 8}
OTHERS = {
    "agalite, exact": {"exact": True, "features": 2},
    "agalite, rank 1": {"rank": 1, "head_size": 3},
    "delta_delta, learned": {"learned_initial_state": True, "scale_output": True},
    "delta_lstm, 1": {"version": 1, "heads": 1},
    "delta_lstm, 2": {"version": 2, "heads": 2},
    "delta_lstm, 3": {"version": 3, "scale_output": True},
    "delta_mlp, deep": {"blocks": 2, "expansion": 2, "heads": 2},
    "delta_rnn, 1": {"version": 1, "feature_map": "softmax", "scale_output": True},
    "fast_weight_memory, catbabi": {
        "memory_size": 3,
        "read_tanh": "edges",
        "residual": False,
        "forget_bias": 1.0,
    },
    "fast_weight_memory, word level": {
        "memory_size": 3,
        "read_tanh": "all",
        "scale_write": False,
        "hidden_size": 5,
    },
    "gtrxl, short": {"window": 6, "feed_forward": 5},
    "hybrid, delta alone": {"window": 0, "heads": 2},
    "hybrid, published": {"window": 6, "short_convolution": 4, "output_norm": "rms"},
    "hybrid, sum": {"window": 3, "mixer": "sum", "positions": "none", "output_norm": "layer"},
    "hybrid, window alone": {"window": 6, "delta": False, "positions": "relative"},
    "infinite_former, gated": FOLDED | {"input_gate": True},
    "infinite_former, sticky": FOLDED | {"sticky": True, "bins": 5},
    "lru, wide": {"state_size": 24},
    "lstm, wide": {"hidden_size": 20},
    "mamba2, 1 head": {"heads": 1, "expand": 1, "state_size": 5, "short_convolution": 1},
    "mamba2, no convolution": {"short_convolution": 0},
    "mesa, not solved": {"heads": 2, "iterations": 3},
    "mingru, wide": {"expansion": 2},
    "mlstm, 1 head": {"heads": 1},
    "mlstm, convolution": {"heads": 2, "short_convolution": 3},
    "recurrent_delta, 1 head": {"heads": 1, "scale_output": True},
    "s5, blocks": {"state_size": 6, "blocks": 3, "gate": "half"},
    "s5, no gate": {"gate": "none", "max_time_step": 1.0},
    "slow_rnn, 2 heads": {"heads": 2, "forget_bias": 1.0, "scale_output": True},
    "slstm, 1 head": {"heads": 1},
    "window_attention, rotary": {"window": 6},
    "window_attention, relative": {"window": 6, "positions": "relative"},
    "window_attention, none": {"window": 6, "positions": "none", "heads": 1},
}
OTHERS |= {f"fast_weight, {name}": options for name, options in FAST_WEIGHTS.items()}
VARIANTS = {name: config() for name, config in CORES.items()}
VARIANTS |= {name: CORES[name.split(",")[0]](**options) for name, options in OTHERS.items()}

every_core = pytest.mark.parametrize("name", sorted(VARIANTS))
defaults_first = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in CORES else pytest.mark.slow)
        for name in sorted(VARIANTS)
    ],
)
# many streams in few examples: they take no longer than one
STREAMS = 8
any_starts = st.lists(st.booleans(), min_size=STREAMS * T, max_size=STREAMS * T).map(
    lambda bits: torch.tensor(bits).view(STREAMS, T)
)


def build(name):
    torch.manual_seed(0)
    core = VARIANTS[name].build(input_size=D)
    with torch.no_grad():
        # a learned state begins at zero, where much of what can go wrong with it does not show
        for parameter in core.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return core


def make(name, streams=B):
    """A core, its state after some steps, and inputs, all in float64 and with gradients."""
    core = build(name).double()
    state = map_tensors(torch.Tensor.double, core.initial_state(streams))
    with torch.no_grad():
        for _ in range(3):
            _, state = core.step(torch.randn(streams, D, dtype=torch.double), state)
    state = map_tensors(lambda leaf: leaf.clone().requires_grad_(), state)
    return core, state, torch.randn(streams, T, D, dtype=torch.double, requires_grad=True)


def in_pieces(core, x, state, starts, cut):
    first, middle = core.unroll(x[:, :cut], state, starts[:, :cut])
    second, end = core.unroll(x[:, cut:], middle, starts[:, cut:])
    return torch.cat([first, second], dim=1), end


def with_gradients(core, x, state, result):
    """Outputs, end state, and what flows back to inputs, initial state and parameters."""
    y, end = result
    generator = torch.Generator().manual_seed(1)
    results = [y, *tensors_in(end)]
    loss = sum(
        (leaf * torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype)).sum()
        for leaf in results
    )
    sources = [x, *tensors_in(state), *core.parameters()]
    gradients = torch.autograd.grad(loss, sources, allow_unused=True)
    pairs = zip(sources, gradients, strict=True)
    return results + [torch.zeros_like(s) if g is None else g for s, g in pairs]


@pytest.mark.unchecked
@every_core
@given(starts=any_starts, cut=st.integers(1, T - 1))
@settings(max_examples=settings().max_examples // 5)
def test_a_sequence_equals_its_steps_and_its_pieces(name, starts, cut):
    core, state, x = make(name, STREAMS)
    steps = with_gradients(core, x, state, unroll_by_steps(core, x, state, starts))
    whole = with_gradients(core, x, state, core.unroll(x, state, starts))
    pieces = with_gradients(core, x, state, in_pieces(core, x, state, starts, cut))
    torch.testing.assert_close(whole, steps, atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(pieces, steps, atol=1e-9, rtol=1e-7)


@pytest.mark.unchecked
@pytest.mark.parametrize("name", [n for n, core in VARIANTS.items() if core.about.parallel])
@torch.no_grad()
def test_parallel_forms_equal_their_steps_at_any_length(name):
    core, state, _ = make(name)
    x, starts = torch.randn(B, 129, D, dtype=torch.double), torch.rand(B, 129) < 0.05
    begin, y_steps, end_steps = 0, x[:, :0], state
    for times in (1, 2, 63, 64, 65, 129):
        piece = slice(begin, times)
        more, end_steps = unroll_by_steps(core, x[:, piece], end_steps, starts[:, piece])
        begin, y_steps = times, torch.cat([y_steps, more], dim=1)
        y, end = core.unroll(x[:, :times], state, starts[:, :times])
        torch.testing.assert_close(y, y_steps, atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(tensors_in(end), tensors_in(end_steps), atol=1e-10, rtol=1e-10)


@pytest.mark.unchecked
@defaults_first
def test_a_long_sequence_in_float32_equals_its_steps(name):
    core = build(name)
    x = torch.randn(2, 100, D)
    starts = torch.rand(2, 100) < 0.02
    y, end = core.unroll(x, core.initial_state(2), starts)
    y_steps, end_steps = unroll_by_steps(core, x, core.initial_state(2), starts)
    torch.testing.assert_close(y, y_steps, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tensors_in(end), tensors_in(end_steps), atol=1e-4, rtol=1e-4)


@every_core
def test_outputs_after_a_start_ignore_even_an_undefined_past(name):
    core, state, x = make(name)
    starts = torch.zeros(B, T, dtype=torch.bool)
    starts[:, 3] = True
    clean, clean_end = core.unroll(x, state, starts)
    poisoned = x.detach().clone()
    poisoned[:, :3] = float("nan")
    nowhere = map_tensors(lambda leaf: torch.full_like(leaf, float("nan")), state)
    for past in (state, nowhere):
        y, end = core.unroll(poisoned, past, starts)
        torch.testing.assert_close(y[:, 3:], clean[:, 3:])
        torch.testing.assert_close(tensors_in(end), tensors_in(clean_end))


@every_core
def test_no_gradient_crosses_a_start(name):
    core, state, x = make(name)
    starts = torch.zeros(B, T, dtype=torch.bool)
    starts[:, 3] = True
    y, _ = core.unroll(x, state, starts)
    sources = [x, *tensors_in(state)]
    to_x, *to_state = torch.autograd.grad(y[:, 3:].square().sum(), sources, allow_unused=True)
    assert not to_x[:, :3].any()
    assert to_x[:, 3:].any()
    assert not any(gradient is not None and gradient.any() for gradient in to_state)


@every_core
def test_the_past_matters_unless_there_is_no_memory(name):
    core, state, x = make(name)
    starts = torch.zeros(B, T, dtype=torch.bool)
    last = core.unroll(x, state, starts)[0][:, -1]
    (to_x,) = torch.autograd.grad(last.square().sum(), x)
    assert to_x[:, 0].any() == (name != "none")


@every_core
def test_the_given_state_is_left_as_it_was(name):
    core, state, x = make(name)
    before = [leaf.detach().clone() for leaf in tensors_in(state)]
    with torch.no_grad():
        core.unroll(x, state, torch.zeros(B, T, dtype=torch.bool))
        core.step(x[:, 0], state)
    torch.testing.assert_close(tensors_in(state), before, atol=0, rtol=0)


@every_core
def test_nothing_is_remembered_between_calls(name):
    core, state, x = make(name)
    starts = torch.zeros(B, T, dtype=torch.bool)
    first, _ = core.unroll(x, state, starts)
    second, _ = core.unroll(x, state, starts)
    torch.testing.assert_close(first, second, atol=0, rtol=0)


@every_core
@pytest.mark.parametrize("mixed", [False, True])
def test_states_are_float32_and_batch_first(name, mixed):
    core = build(name)
    x, starts = torch.randn(B, T, D), torch.zeros(B, T, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
        start = core.initial_state(B)
        _, after_step = core.step(x[:, 0], start)
        y, end = core.unroll(x, start, starts)
    assert y.shape == (B, T, core.output_size)
    for state in (start, after_step, end):
        shapes = [leaf.shape for leaf in tensors_in(state)]
        assert shapes == [leaf.shape for leaf in tensors_in(start)]
        assert all(leaf.dtype == torch.float32 for leaf in tensors_in(state))
        assert all(shape[0] == B for shape in shapes)
    assert state_size(core) * B == sum(leaf.numel() for leaf in tensors_in(start))


@every_core
def test_streams_do_not_see_each_other(name):
    core, state, x = make(name)
    starts = torch.rand(B, T) < 0.3
    rows = torch.tensor([2, 0, 1])
    y, end = core.unroll(x, state, starts)
    y_moved, end_moved = core.unroll(x[rows], take_rows(state, rows), starts[rows])
    torch.testing.assert_close(y_moved, y[rows])
    torch.testing.assert_close(tensors_in(end_moved), tensors_in(take_rows(end, rows)))


@pytest.mark.parametrize("name", sorted(CORES))
def test_a_core_is_parallel_over_time_if_it_says_so(name, monkeypatch):
    selections = []
    select = contract.where_state
    monkeypatch.setattr(
        contract, "where_state", lambda *given: selections.append(0) or select(*given)
    )
    core = build(name)
    x, starts = torch.randn(B, T, D), torch.ones(B, T, dtype=torch.bool)
    # not in C, where every recurrence is a loop
    with use_kernel("chunked"):
        core.unroll(x, core.initial_state(B), starts)
    # some have one recurrence after another
    rounds, rest = divmod(len(selections), T)
    assert rest == 0
    assert (rounds == 0) == CORES[name].about.parallel


@pytest.mark.parametrize("name", sorted(CORES))
def test_a_core_says_what_it_is(name):
    about = CORES[name].about
    assert "\n" not in about.update
    assert all(about[:2])
    assert about.source == "a control" or re.search(r"\b(19|20)\d\d[ab]?\b", about.source)


def test_every_core_can_be_chosen_by_its_name():
    for name, config in CORES.items():
        assert config().kind == name


def test_the_control_has_about_the_parameters_of_the_default_memory():
    count = {
        name: sum(p.numel() for p in CORES[name]().build(128).parameters())
        for name in ("none", "fast_weight")
    }
    assert 0.9 < count["none"] / count["fast_weight"] < 1.1


def test_lstm_and_gru_are_those_of_torch():
    x, starts = torch.randn(B, T, D), torch.zeros(B, T, dtype=torch.bool)
    cores = {CORES["lstm"](forget_bias=0.0): torch.nn.LSTM, CORES["gru"](): torch.nn.GRU}
    for config, fused in cores.items():
        ours, theirs = config.build(D), fused(D, D, batch_first=True)
        cell = getattr(ours, "cell", ours)
        with torch.no_grad():
            theirs.weight_ih_l0.copy_(cell.input.weight)
            theirs.weight_hh_l0.copy_(cell.recurrent.weight)
            theirs.bias_ih_l0.copy_(cell.input.bias)
            theirs.bias_hh_l0.zero_()
            if cell.recurrent.bias is not None:
                theirs.bias_hh_l0.copy_(cell.recurrent.bias)
        y, _ = ours.unroll(x, ours.initial_state(B), starts)
        torch.testing.assert_close(y, theirs(x)[0])


def test_heads_forget_at_different_speeds_from_the_beginning():
    torch.manual_seed(0)
    core = FastWeightConfig(update_rule="gated_delta", heads=64).build(64)
    decay = core.decay(torch.zeros(1, 64))
    assert ((decay > 0) & (decay < 1)).all()
    assert decay.min() < 0.8
    assert decay.max() > 0.98
