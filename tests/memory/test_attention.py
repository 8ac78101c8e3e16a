"""Windowed attention, and the block of the gated Transformer-XL that stands on it."""

import math

import numpy as np
import pytest
import torch

from fwrl.config import ConfigError
from fwrl.core import state_size
from fwrl.cores.gtrxl import GTrXLConfig
from fwrl.cores.parts import attention
from fwrl.cores.window_attention import WindowAttentionConfig

B, D, HEADS, SIZE = 2, 8, 2, 4
POSITIONS = ["rotary", "relative", "none"]
every_position = pytest.mark.parametrize("positions", POSITIONS)


def build(config, seed=0):
    torch.manual_seed(seed)
    core = config.build(D).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return core


def window_attention(window, positions="rotary"):
    return build(WindowAttentionConfig(heads=HEADS, window=window, positions=positions))


def inputs(times, share=0.0):
    generator = torch.Generator().manual_seed(times)
    x = torch.randn(B, times, D, dtype=torch.double, generator=generator)
    return x, torch.rand(B, times, generator=generator) < share


def numbers(tensor):
    return tensor.detach().numpy()


def frequency(size):
    return 10000.0 ** -(np.arange(0, size, 2) / size)


def score(module, positions, head, query, key, age):
    """The score of one query and one key, by the equations of the papers."""
    if positions == "none":
        return query @ key
    if positions == "rotary":
        half = SIZE // 2
        q, k = query[:half] + 1j * query[half:], key[:half] + 1j * key[half:]
        return (q * k.conj() * np.exp(1j * age * frequency(SIZE))).sum().real
    encoding = np.concatenate([np.sin(age * frequency(D)), np.cos(age * frequency(D))])
    position = (numbers(module.position.weight) @ encoding).reshape(HEADS, SIZE)[head]
    content_bias = numbers(module.content_bias)[head, 0]
    position_bias = numbers(module.position_bias)[head, 0]
    return (query + content_bias) @ key + (query + position_bias) @ position


def attend_by_hand(module, positions, query_input, key_inputs):
    """The output of attention at one time step; ``key_inputs`` begin with the oldest."""
    query = (numbers(module.query.weight) @ query_input).reshape(HEADS, SIZE)
    both = (key_inputs @ numbers(module.key_value.weight).T).reshape(-1, 2, HEADS, SIZE)
    found = []
    for head in range(HEADS):
        keys, values = both[:, 0, head], both[:, 1, head]
        ages = range(len(keys) - 1, -1, -1)
        pairs = zip(keys, ages, strict=True)
        scores = [score(module.scores, positions, head, query[head], k, a) for k, a in pairs]
        weights = np.exp(np.array(scores) / math.sqrt(SIZE))
        found.append(weights @ values / weights.sum())
    return numbers(module.output.weight) @ np.concatenate(found)


def over_time(x, starts, window, read):
    """``read`` of the inputs in the window of each time, in a plain loop."""
    rows = []
    for stream, begins in zip(numbers(x), starts, strict=True):
        seen, row = [], []
        for now, start in zip(stream, begins, strict=True):
            seen = [*([] if start else seen), now][-window:]
            row.append(read(np.stack(seen)))
        rows.append(row)
    return torch.tensor(np.array(rows))


@every_position
@pytest.mark.parametrize("window", [1, 5, 64])
@pytest.mark.parametrize("times", [1, 2, 63, 64, 65, 257])
def test_it_is_softmax_attention_over_the_window(times, window, positions):
    core = window_attention(window, positions)
    x, starts = inputs(times, share=0.03)
    y, _ = core.unroll(x, core.initial_state(B), starts)

    def read(seen):
        return attend_by_hand(core.attention, positions, seen[-1], seen)

    torch.testing.assert_close(y, over_time(x, starts, window, read), atol=1e-6, rtol=1e-6)


def test_no_position_to_twelve_digits():
    """The sinusoids and frequencies are constants in float32; nothing else is."""
    core = window_attention(7, "none")
    x, starts = inputs(40, share=0.1)
    y, _ = core.unroll(x, core.initial_state(B), starts)

    def read(seen):
        return attend_by_hand(core.attention, "none", seen[-1], seen)

    torch.testing.assert_close(y, over_time(x, starts, 7, read), atol=1e-12, rtol=0)


@every_position
@pytest.mark.parametrize("before", [1, 31, 32, 33, 200])
def test_an_episode_that_is_shifted_in_time_reads_the_same(before, positions):
    core = window_attention(9, positions)
    x, starts = inputs(50)
    lead, no_starts = inputs(before)
    starts[:, 0] = True
    alone, _ = core.unroll(x, core.initial_state(B), starts)
    shifted, _ = core.unroll(
        torch.cat([lead, x], 1), core.initial_state(B), torch.cat([no_starts, starts], 1)
    )
    torch.testing.assert_close(shifted[:, before:], alone, atol=1e-12, rtol=0)
    # nor does it matter how old the episode is, once the window is full
    starts[:, 0] = False
    older, _ = core.unroll(
        torch.cat([lead, x], 1), core.initial_state(B), torch.cat([no_starts, starts], 1)
    )
    torch.testing.assert_close(older[:, before + 8 :], alone[:, 8:], atol=1e-12, rtol=0)


@every_position
def test_a_key_beyond_the_window_has_no_influence_and_the_last_one_in_it_has(positions):
    core = window_attention(5, positions)
    x, starts = inputs(40)
    x.requires_grad_()
    y, _ = core.unroll(x, core.initial_state(B), starts)
    (gradient,) = torch.autograd.grad(y[:, 37].square().sum(), x)
    reached = gradient.abs().sum(dim=(0, 2)) > 0
    assert reached.nonzero().squeeze(1).tolist() == [33, 34, 35, 36, 37]


def test_a_window_of_one_forgets_everything():
    core = window_attention(1)
    assert state_size(core) == 1
    x, starts = inputs(7)
    y, state = core.unroll(x, core.initial_state(B), starts)
    torch.testing.assert_close(y, core.unroll(x, core.initial_state(B), ~starts)[0])
    assert not state.held.any()


def test_the_state_holds_what_the_next_time_will_see():
    core = window_attention(5)
    x, starts = inputs(9)
    starts[0, 6] = True
    _, state = core.unroll(x, core.initial_state(B), starts)
    assert state.held.tolist() == [3.0, 4.0]
    key, value = core.attention.keys_values(x[:, -4:])
    torch.testing.assert_close(state.window.key[1], key[1])
    torch.testing.assert_close(state.window.value[0, 1:], value[0, 1:])
    assert not state.window.value[0, 0].any()


def test_what_is_undefined_reaches_those_that_see_it_and_no_gradient_of_others():
    core = window_attention(5)
    x, starts = inputs(60)
    starts[0, 42] = True
    poisoned = x.clone()
    poisoned[:, 40] = math.nan
    results = []
    for given in (x, poisoned):
        given.requires_grad_()
        query, (key, value) = core.attention.queries(given), core.attention.keys_values(given)
        seen = torch.cat([torch.zeros(B, 4, HEADS, SIZE, dtype=torch.double), key], 1)
        values = torch.cat([torch.zeros(B, 4, HEADS, SIZE, dtype=torch.double), value], 1)
        count = attention_counts(starts)
        found = attention.attend(core.attention.scores, query, seen, values, count)
        clean = torch.ones(B, 60, dtype=torch.bool)
        clean[0, 40:42] = clean[1, 40:45] = False
        (gradient,) = torch.autograd.grad(found[clean].sum(), key)
        results.append((found, gradient, clean))
    (plain, plain_gradient, clean), (found, gradient, _) = results
    torch.testing.assert_close(found[clean], plain[clean], atol=1e-12, rtol=0)
    assert found[~clean].isnan().all()
    others = torch.arange(60) != 40
    torch.testing.assert_close(gradient[:, others], plain_gradient[:, others])
    assert plain_gradient[:, 28:43].any()


def attention_counts(starts):
    count = torch.zeros(starts.shape, dtype=torch.double)
    for t in range(starts.shape[1]):
        count[:, t] = torch.where(starts[:, t], 1.0, count[:, t - 1] + 1 if t else 1.0)
    return count


@pytest.mark.parametrize("window", [3, 16, 64])
def test_the_cost_is_linear_in_time(window, monkeypatch):
    core = window_attention(window, "none")
    pairs = []
    plain = core.attention.scores.forward

    def counted(query, key):
        found = plain(query, key)
        pairs.append(found.numel() / (B * HEADS))
        return found

    monkeypatch.setattr(core.attention.scores, "forward", counted)
    x, starts = inputs(512)
    core.unroll(x, core.initial_state(B), starts)
    assert len(pairs) == 1
    assert pairs[0] <= 512 * (window + max(window, attention.MIN_BLOCK))


def test_scores_are_float32_under_autocast(monkeypatch):
    core = window_attention(8).float()
    kinds = []
    plain = core.attention.scores.forward

    def watched(query, key):
        found = plain(query, key)
        kinds.append((query.dtype, key.dtype, found.dtype))
        return found

    monkeypatch.setattr(core.attention.scores, "forward", watched)
    x, starts = inputs(9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        core.unroll(x.float(), core.initial_state(B), starts)
    assert kinds == [(torch.float32,) * 3]


def gtrxl(**settings):
    return build(GTrXLConfig(heads=HEADS, window=4, feed_forward=5, **settings))


def norm(layer, x):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + layer.eps)
    return scaled * numbers(layer.weight) + numbers(layer.bias)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gate(module, x, y):
    """The equations of Parisotto et al. (2020), after the ReLU of the submodule's output."""
    y = np.maximum(y, 0)
    reset_y, update_y, new_y = np.split(numbers(module.from_layer.weight) @ y, 3)
    reset_x, update_x = np.split(numbers(module.from_stream.weight) @ x, 2)
    r = sigmoid(reset_y + reset_x)
    z = sigmoid(update_y + update_x - module.bias)
    h = np.tanh(new_y + numbers(module.from_reset.weight) @ (r * x))
    return (1 - z) * x + z * h


@every_position
def test_gtrxl_is_the_published_block(positions):
    core = gtrxl(positions=positions)
    x, starts = inputs(45, share=0.1)
    first, second = core.feed_forward[1], core.feed_forward[3]

    def read(seen):
        now, normed = seen[-1], norm(core.attention_norm, seen)
        found = attend_by_hand(core.attention, positions, normed[-1], normed)
        stream = gate(core.attention_gate, now, found)
        hidden = numbers(first.weight) @ norm(core.feed_forward[0], stream) + numbers(first.bias)
        out = numbers(second.weight) @ np.maximum(hidden, 0) + numbers(second.bias)
        return gate(core.feed_forward_gate, stream, out)

    y, state = core.unroll(x, core.initial_state(B), starts)
    torch.testing.assert_close(y, over_time(x, starts, 4, read), atol=1e-6, rtol=1e-6)
    assert state.inputs.shape == (B, 3, D)


def test_gates_are_nearly_closed_at_first():
    x, starts = inputs(20)
    torch.manual_seed(0)
    away = []
    for gate_bias in (0.0, 2.0, 50.0):
        core = GTrXLConfig(heads=HEADS, gate_bias=gate_bias).build(D).double()
        y, _ = core.unroll(x, core.initial_state(B), starts)
        away.append(((y - x).norm() / x.norm()).item())
    assert away[0] > 0.5
    assert away[1] < 0.35
    assert away[2] < 1e-12
    assert GTrXLConfig().gate_bias == 2.0


def test_gtrxl_keeps_its_inputs_and_no_more():
    core = gtrxl()
    x, starts = inputs(9)
    _, state = core.unroll(x, core.initial_state(B), starts)
    torch.testing.assert_close(state.inputs, x[:, -3:], atol=0, rtol=0)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="input_size 30 does not divide into 4 heads"):
        WindowAttentionConfig().build(30)
    with pytest.raises(ConfigError, match="heads of size 3 cannot be rotated; use an even size"):
        WindowAttentionConfig(heads=2).build(6)
    with pytest.raises(ConfigError, match="does not divide into 3 heads; use a multiple of 3"):
        GTrXLConfig(heads=3).build(16)
    assert GTrXLConfig(heads=1).build(7).output_size == 7
