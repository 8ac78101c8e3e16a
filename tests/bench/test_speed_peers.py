"""The peers of the speed benchmark do the work that they are said to do."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from fwrl.bench.speed.peers import (
    ATTENTION,
    CELL_LOOP,
    GRU_CALL,
    ONE_CALL,
    STEPPED,
    CausalAttention,
    Pass,
    Sequences,
    _loop,
    _step_by_step,
    bytes_saved,
    core_pass,
    linear_maps,
    peers,
    sequences,
)
from fwrl.cores import CORES

B, T, D = 3, 20, 8


@pytest.fixture
def given():
    found = sequences(B, T, D, episode=5, device=torch.device("cpu"), seed=0)
    assert 0 < found.starts[:, 1:].sum() < B * T / 2
    return found


def test_lstms_forget_exactly_where_episodes_start(given):
    lstm, cell = nn.LSTM(D, D), nn.LSTMCell(D, D)
    cell.load_state_dict({name.removesuffix("_l0"): w for name, w in lstm.state_dict().items()})
    stepped = _step_by_step(lstm, given).transpose(0, 1)
    torch.testing.assert_close(_loop(cell, given), stepped)
    # one call for each episode, from zeros
    for b in range(B):
        bounds = [0, *(t for t in range(1, T) if given.starts[b, t]), T]
        for first, end in pairwise(bounds):
            alone = lstm(given.x[b, first:end].unsqueeze(1))[0].squeeze(1)
            torch.testing.assert_close(stepped[b, first:end], alone)


def test_attention_sees_the_past_of_its_episode_and_nothing_else(given):
    attention = CausalAttention(D, 2)
    y = attention(*given)
    for b in range(B):
        for t in range(T):
            (seen,) = torch.autograd.grad(y[b, t].sum(), given.x, retain_graph=True)
            first = max([0, *(s for s in range(t + 1) if given.starts[b, s])])
            expected = torch.zeros(B, T, dtype=torch.bool)
            expected[b, first : t + 1] = True
            assert torch.equal(seen.abs().sum(-1) > 0, expected)


def test_every_peer_reads_everything_and_reaches_all_its_weights(given):
    found = peers(given, heads=2)
    assert set(found) == {STEPPED, CELL_LOOP, ONE_CALL, GRU_CALL, ATTENTION}
    for each in found.values():
        assert each.forward().numel() == B * T * D
        assert len(each.leaves) > 1
        assert all(gradient is not None for gradient in each.run())


@pytest.mark.parametrize("name", sorted(CORES))
def test_the_linear_maps_of_a_core_are_all_of_them_once(name, given):
    core = CORES[name]().build(D)
    weights = sum(each.weight.numel() for each in core.modules() if isinstance(each, nn.Linear))
    each = linear_maps(core, given)
    assert sum(leaf.numel() for leaf in each.leaves if leaf.dim() == 2) == weights > 0
    outputs = [layer.out_features for layer in core.modules() if isinstance(layer, nn.Linear)]
    assert each.forward().numel() == B * T * sum(outputs)
    assert all(gradient is not None for gradient in each.run())
    assert core_pass(core, given).forward().shape[:2] == (B, T)


def test_bytes_saved_are_those_of_distinct_activations():
    x = torch.randn(10, 7, requires_grad=True)
    weight = torch.randn(7, 5, requires_grad=True)
    leaves = [x, weight]
    assert bytes_saved(Pass(x.square, leaves)) == 4 * 70
    # the same numbers twice, and a view of them
    assert bytes_saved(Pass(lambda: x.square() + x[:5].square().sum(), leaves)) == 4 * 70
    # the input is kept, the parameter was there anyhow, and exp keeps what it puts out
    assert bytes_saved(Pass(lambda: torch.exp(x @ weight), leaves)) == 4 * (70 + 50)


def test_sequences_are_the_same_for_the_same_seed():
    one, two = (sequences(B, T, D, 5, torch.device("cpu"), seed=1) for _ in range(2))
    assert isinstance(one, Sequences)
    assert torch.equal(one.x, two.x)
    assert torch.equal(one.starts, two.starts)
