"""The memories of xLSTM against their equations without a stabiliser, in float64."""

import re

import numpy as np
import pytest
import torch

from fwrl.config import ConfigError
from fwrl.cores.mlstm import EPSILON, MLSTMConfig
from fwrl.cores.mlstm import State as MLSTMState
from fwrl.cores.slstm import SLSTMConfig
from fwrl.cores.slstm import State as SLSTMState
from fwrl.kernels.associative_scan import max_recurrence
from fwrl.state import map_tensors, tensors_in

B, D, H = 2, 8, 2
V = D // H


def layer(linear, x):
    y = linear.weight.detach().numpy() @ x
    return y if linear.bias is None else y + linear.bias.detach().numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def head_norm(core, values):
    values = values.reshape(H, V)
    centred = values - values.mean(axis=1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    return (core.norm.scale.detach().numpy() * scaled).ravel()


def mlstm_step(core, x, memory):
    """The memory: matrix, sum of keys and largest exponent of each head, and the last inputs."""
    weights, sums, largest, recent = (leaf.copy() for leaf in memory)
    if core.convolution is None:
        query, key, value = layer(core.project, x).reshape(H, 3, V).transpose(1, 0, 2)
    else:
        window = np.concatenate([recent, x[None]])
        taps = core.convolution.weight.detach().numpy()[::-1]
        mixed = (taps * window).sum(0) + core.convolution.bias.detach().numpy()
        projected = layer(core.project, mixed * sigmoid(mixed))
        query, key = projected.reshape(H, 2, V).transpose(1, 0, 2)
        value = layer(core.values, x).reshape(H, V)
        recent = window[1:]
    entry, forget = np.split(layer(core.gates, x), 2)
    reads = []
    for h in range(H):
        f, i, k = sigmoid(forget[h]), np.exp(entry[h]), key[h] / np.sqrt(V)
        weights[h] = f * weights[h] + i * np.outer(k, value[h])
        sums[h] = f * sums[h] + i * k
        largest[h] = max(np.log(f) + largest[h], entry[h])
        # what the published program adds depends on how it scales its numbers
        added = EPSILON * np.exp(largest[h])
        reads.append(query[h] @ weights[h] / (max(abs(query[h] @ sums[h]), 1) + added))
    hidden = head_norm(core, np.concatenate(reads))
    return layer(core.output, sigmoid(layer(core.output_gate, x)) * hidden), (
        weights,
        sums,
        largest,
        recent,
    )


def slstm_step(core, x, memory):
    hidden, cell, normaliser = (leaf.copy() for leaf in memory)
    projected = layer(core.input, x).reshape(H, 4, V)
    for h in range(H):
        recurrent = core.recurrent[h].detach().numpy().reshape(V, 4, V)
        i, f, z, o = projected[h] + np.einsum("v,vgw->gw", hidden[h], recurrent)
        cell[h] = sigmoid(f) * cell[h] + np.exp(i) * np.tanh(z)
        normaliser[h] = sigmoid(f) * normaliser[h] + np.exp(i)
        hidden[h] = sigmoid(o) * cell[h] / normaliser[h]
    return head_norm(core, hidden), (hidden, cell, normaliser)


def plain(state, b):
    """The state of one stream, multiplied by what the stabiliser divided it by."""
    if isinstance(state, MLSTMState):
        leaves = tensors_in(state)
        weights, largest, *recent = (leaf[b].detach().double().numpy() for leaf in leaves)
        weights = weights * np.exp(largest)[:, None, None]
        return weights[..., :-1], weights[..., -1], largest, *(recent or [np.zeros((0, D))])
    hidden, cell, normaliser, largest = (leaf[b].detach().double().numpy() for leaf in state)
    return hidden, cell * np.exp(largest), normaliser * np.exp(largest)


MEMORIES = {
    "mlstm": (MLSTMConfig(heads=H), mlstm_step),
    "mlstm, convolution": (MLSTMConfig(heads=H, short_convolution=3), mlstm_step),
    "slstm": (SLSTMConfig(heads=H), slstm_step),
}
either = pytest.mark.parametrize("name", MEMORIES)


def make(name, spread=0.3):
    """A core in float64 with parameters that are nowhere special, and a state it has come to."""
    torch.manual_seed(0)
    core = MEMORIES[name][0].build(D).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
        state = map_tensors(torch.Tensor.double, core.initial_state(B))
        state = core.unroll(torch.randn(B, 3, D).double(), state, torch.zeros(B, 3).bool())[1]
    return core, state


def by_equations(name, core, x, state, starts):
    """The outputs at all times, and the last memory of each stream."""
    step, fresh = MEMORIES[name][1], map_tensors(torch.Tensor.double, core.initial_state(B))
    outputs, ends = [], []
    for b in range(B):
        memory, read = plain(state, b), []
        for t in range(x.shape[1]):
            memory = plain(fresh, b) if starts[b, t] else memory
            y, memory = step(core, x[b, t].numpy(), memory)
            read.append(y)
        outputs.append(np.stack(read))
        ends.append(memory)
    return np.stack(outputs), ends


@either
def test_a_memory_is_its_equations(name):
    core, state = make(name)
    x, starts = torch.randn(B, 30, D).double(), torch.rand(B, 30) < 0.1
    starts[:, 1:4] = torch.tensor([[True, True, False], [False, False, False]])
    with torch.no_grad():
        y, end = core.unroll(x, state, starts)
    expected, ends = by_equations(name, core, x, state, starts)
    np.testing.assert_allclose(y.numpy(), expected, atol=1e-9)
    for b in range(B):
        for actual, leaf in zip(plain(end, b), ends[b], strict=True):
            np.testing.assert_allclose(actual, leaf, atol=1e-9)


@either
@pytest.mark.parametrize("shift", [-200.0, -60.0, 60.0, 200.0])
def test_input_gates_that_would_overflow_are_exact_in_float32(name, shift):
    """exp(88) is the end of single precision, and exp(-103); those of float64 are at 700."""
    core, state = make(name)
    gates = core.gates.bias[:H] if name != "slstm" else core.input.bias.view(H, 4, V)[:, 0]
    with torch.no_grad():
        gates += shift
    x, starts = 2 * torch.randn(B, 40, D).double(), torch.rand(B, 40) < 0.05
    state = map_tensors(torch.zeros_like, state)
    expected, _ = by_equations(name, core, x, state, starts)
    single = core.float()
    x = x.float().requires_grad_()
    y, end = single.unroll(x, single.initial_state(B), starts)
    np.testing.assert_allclose(y.detach().numpy(), expected, atol=2e-3)
    found = torch.autograd.grad(y.square().sum(), [x, *single.parameters()])
    assert all(each.isfinite().all() for each in [*tensors_in(end), *found])


@either
def test_the_scale_of_a_state_is_that_of_its_stabiliser(name):
    """The same memory under another stabiliser is read alike, and written alike."""
    core, state = make(name)
    x, starts = torch.randn(B, 9, D).double(), torch.zeros(B, 9, dtype=torch.bool)
    moved = state._replace(stabiliser=state.stabiliser + 3.0)
    for field in ("weights", "cell", "normaliser"):
        if hasattr(state, field):
            moved = moved._replace(**{field: getattr(state, field) * np.exp(-3.0)})
    with torch.no_grad():
        y, _ = core.unroll(x, state, starts)
        other, _ = core.unroll(x, moved, starts)
    # what is added to the divisor is not scaled
    torch.testing.assert_close(other, y, atol=1e-4, rtol=1e-4)
    assert (other - core.unroll(x, state._replace(stabiliser=moved.stabiliser), starts)[0]).any()


@either
def test_gradients_are_those_of_finite_differences(name):
    core, state = make(name)
    x, starts = torch.randn(B, 5, D).double().requires_grad_(), torch.rand(B, 5) < 0.3
    leaves = [leaf.requires_grad_() for leaf in tensors_in(state)]
    kind = MLSTMState if name != "slstm" else SLSTMState

    def read(x, *leaves):
        return core.unroll(x, kind(*leaves), starts)[0]

    assert torch.autograd.gradcheck(read, (x, *leaves), atol=1e-5, fast_mode=True)


def test_units_that_have_written_are_divided_by_one_or_more():
    core, _ = make("slstm", spread=5.0)
    x, starts = 20 * torch.randn(B, 200, D).double(), torch.rand(B, 200) < 0.05
    state = map_tensors(torch.Tensor.double, core.initial_state(B))
    for t in range(200):
        _, state = core.unroll(x[:, t : t + 1], state, starts[:, t : t + 1])
        assert (state.normaliser >= 1).all()
        # an average of what was written, times a gate
        assert (state.hidden.abs() <= 1 + 1e-12).all()


@pytest.mark.parametrize("density", [0, 0.02, 0.3, 1])
@pytest.mark.parametrize("times", [1, 2, 63, 64, 65, 257])
def test_the_largest_exponent_at_all_times_is_that_of_a_loop(times, density):
    torch.manual_seed(times)
    change, floor = torch.randn(2, B, times, H).double().unbind(0)
    state, starts = torch.randn(B, H).double(), torch.rand(B, times) < density
    found = max_recurrence(change, floor, state, starts)
    for t in range(times):
        state = torch.where(starts[:, t, None], 0.0, state)
        state = torch.maximum(change[:, t] + state, floor[:, t])
        torch.testing.assert_close(found[:, t], state, atol=1e-12, rtol=1e-12)


def test_the_largest_exponent_keeps_its_digits_after_a_long_fall():
    floor = torch.linspace(-1, 1, 300).view(1, 300, 1)
    found = max_recurrence(
        torch.full_like(floor, -1e6), floor, torch.zeros(1, 1), torch.zeros(1, 300).bool()
    )
    assert torch.equal(found, floor)


@either
def test_heads_that_a_norm_would_empty_are_refused_when_the_core_is_built(name):
    config = MEMORIES[name][0]
    message = f"{config.kind}: heads is 8, which leaves one number to each"
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        config.model_copy(update={"heads": 8}).build(D)
    assert "use at most 4" in str(error.value)
