"""The options of the default core equal loops written from the equations."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fwrl.core import by_steps
from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.cores.parts.layers import ShortConvolution
from fwrl.cores.rwkv7 import RWKV7Config
from fwrl.kernels import scan
from fwrl.update_rules import UPDATE_RULES, Write

B, T, D = 2, 21, 8
HEADS, SIZE = 2, 4


def make(config, seed=0):
    torch.manual_seed(seed)
    core = config.build(D).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    x = torch.randn(B, T, D, dtype=torch.double)
    return core, x, torch.rand(B, T) < 0.2


def run(core, x, starts):
    state = core.initial_state(B)
    return core.unroll(x, state, starts)[0].detach()


def matrix(linear):
    return linear.weight.detach().numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def unit(x):
    return x / np.sqrt((x**2).sum(-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize("writes", [1, 2, 3])
@pytest.mark.parametrize("rule", ["delta", "gated_delta", "kda"])
def test_several_writes_at_a_time_are_a_product_of_reflections(writes, rule):
    config = FastWeightConfig(
        heads=HEADS,
        feature_map="identity",
        num_householder=writes,
        update_rule=rule,
        max_beta=2,
    )
    core, x, starts = make(config)
    y = run(core, x, starts).numpy()
    inner = HEADS * SIZE
    for b in range(B):
        weights = np.zeros((HEADS, SIZE, SIZE))
        for t in range(T):
            if starts[b, t]:
                weights = np.zeros((HEADS, SIZE, SIZE))
            parts = (matrix(core.project) @ x[b, t].numpy()).reshape(-1, HEADS, SIZE)
            query, keys, values = parts[0], parts[1 : 1 + writes], parts[1 + writes :]
            beta = matrix(core.beta) @ x[b, t].numpy() + core.beta.bias.detach().numpy()
            beta = 2 * sigmoid(beta).reshape(writes, HEADS)
            if core.decay is not None:
                weights = core.decay(x[b, t]).detach().numpy()[..., None] * weights
            for n in range(writes):
                for h in range(HEADS):
                    key = unit(keys[n, h])
                    # the transition matrix is written out: a reflection for beta = 2
                    transition = np.eye(SIZE) - beta[n, h] * np.outer(key, key)
                    written = beta[n, h] * np.outer(key, values[n, h])
                    weights[h] = transition @ weights[h] + written
            read = np.stack([unit(query[h]) @ weights[h] for h in range(HEADS)])
            expected = matrix(core.output) @ read.reshape(inner)
            np.testing.assert_allclose(y[b, t], expected, atol=1e-9)


@pytest.mark.parametrize("writes", [1, 2])
@pytest.mark.parametrize("max_beta", [1, 2])
def test_gates_of_features_and_values_equal_their_equations(writes, max_beta):
    sizes = {"key_size": SIZE, "value_size": 3, "num_householder": writes, "max_beta": max_beta}
    core, x, starts = make(FastWeightConfig(heads=HEADS, update_rule="gated_delta_2", **sizes))
    y = run(core, x, starts).numpy()
    with torch.no_grad():
        decay = core.decay(x).numpy()
        gates = sigmoid(core.beta(x).numpy()).reshape(B, T, writes, HEADS, SIZE + 3)
        keys, values = np.split(core.project(x).numpy(), [(1 + writes) * HEADS * SIZE], axis=-1)
    keys = keys.reshape(B, T, 1 + writes, HEADS, SIZE)
    keys, values = unit(keys * sigmoid(keys)), values.reshape(B, T, writes, HEADS, 3)
    for b in range(B):
        # values as rows, as in the paper: S <- S D (I - (b * k) k^T) + (w * v) k^T
        weights = np.zeros((HEADS, 3, SIZE))
        for t in range(T):
            if starts[b, t]:
                weights = np.zeros((HEADS, 3, SIZE))
            weights = weights * decay[b, t][:, None, :]
            for n, h in itertools.product(range(writes), range(HEADS)):
                erase, gate = gates[b, t, n, h, :SIZE], gates[b, t, n, h, SIZE:]
                key, value = keys[b, t, 1 + n, h], values[b, t, n, h]
                transition = np.eye(SIZE) - np.outer(max_beta * erase * key, key)
                weights[h] = weights[h] @ transition + np.outer(gate * value, key)
            read = np.einsum("hvk,hk->hv", weights, keys[b, t, 0]).reshape(-1)
            np.testing.assert_allclose(y[b, t], matrix(core.output) @ read, atol=1e-9)


@pytest.mark.parametrize("rule", ["gated_delta", "kda"])
def test_a_decay_of_one_leaves_the_delta_rule(rule):
    plain, x, starts = make(FastWeightConfig(heads=HEADS, update_rule="delta"))
    core, _, _ = make(FastWeightConfig(heads=HEADS, update_rule=rule))
    core.load_state_dict(plain.state_dict(), strict=False)
    torch.nn.init.constant_(core.decay.log_rate, -100.0)
    torch.testing.assert_close(run(core, x, starts), run(plain, x, starts), atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_short_convolution_is_that_of_torch_on_each_episode(size):
    torch.manual_seed(0)
    convolution = ShortConvolution(3, size).double()
    x = torch.randn(B, T, 3, dtype=torch.double)
    starts = torch.rand(B, T) < 0.2
    starts[:, 0] = True
    y, recent = convolution(x, torch.full((B, size - 1, 3), torch.nan).double(), starts)
    kernel = convolution.weight.flip(0).T.unsqueeze(1)
    for b in range(B):
        borders = [*starts[b].nonzero().flatten().tolist(), T]
        for first, end in itertools.pairwise(borders):
            episode = F.pad(x[b, first:end].T, (size - 1, 0))
            expected = F.conv1d(episode, kernel, groups=3).T
            torch.testing.assert_close(y[b, first:end], expected)
        last = F.pad(x[b, borders[-2] :], (0, 0, size - 1, 0))
        torch.testing.assert_close(recent[b], last[len(last) - size + 1 :])


def test_rwkv7_equals_its_equations():
    core, x, starts = make(RWKV7Config(heads=HEADS, rank=3))
    y = run(core, x, starts).numpy()
    per_head = (HEADS, SIZE)
    with torch.no_grad():
        decay = np.exp(-np.exp(-0.5) * sigmoid(core.decay(x).numpy())).reshape(B, T, *per_head)
        rate = sigmoid(core.rate(x).numpy()).reshape(B, T, *per_head)
    scale, mix = core.removal_scale.detach().numpy(), core.rate_mix.detach().numpy()
    for b in range(B):
        weights = np.zeros((HEADS, SIZE, SIZE))
        for t in range(T):
            if starts[b, t]:
                weights = np.zeros((HEADS, SIZE, SIZE))
            query, key, value = (matrix(core.project) @ x[b, t].numpy()).reshape(3, *per_head)
            kappa = key * scale
            kappa = kappa / np.sqrt((kappa**2).sum(-1, keepdims=True))
            written = key * (1 + (rate[b, t] - 1) * mix)
            for h in range(HEADS):
                # S (diag(w) - kappa^T (a * kappa)) + v^T k, values as rows, as in the paper
                transition = np.diag(decay[b, t, h]) - np.outer(kappa[h], rate[b, t, h] * kappa[h])
                rows = weights[h].T @ transition + np.outer(value[h], written[h])
                weights[h] = rows.T
            read = np.einsum("hk,hkv->hv", query, weights)
            mean, variance = read.mean(-1, keepdims=True), read.var(-1, keepdims=True)
            normed = ((read - mean) / np.sqrt(variance + 1e-5)).reshape(-1)
            normed = normed * core.norm.weight.detach().numpy() + core.norm.bias.detach().numpy()
            np.testing.assert_allclose(y[b, t], matrix(core.output) @ normed, atol=1e-9)


def test_rwkv7_begins_with_decays_between_its_limits():
    decay = torch.exp(-np.exp(-0.5) * RWKV7Config().build(64).decay(torch.zeros(64)).sigmoid())
    assert decay.min() < 0.56
    assert decay.max() > 0.99


def test_the_fast_weights_of_1991_are_squashed_sums():
    torch.manual_seed(0)
    key, value, query = (torch.randn(1, 5, 1, 3).double() for _ in range(3))
    starts = torch.zeros(1, 5, dtype=torch.bool)
    state = torch.zeros(1, 1, 3, 3, dtype=torch.double)
    rule = UPDATE_RULES["sigmoid_sum"]
    values, _ = scan(rule, state, query, Write(key, value), starts)

    def advance(now, weights):
        a, b, x = now
        weights = torch.sigmoid(weights + b.unsqueeze(-1) * a.unsqueeze(-2))
        return torch.einsum("bij,bj->bi", weights, x), weights

    inputs = (key[:, :, 0], value[:, :, 0], query[:, :, 0])
    zeros = torch.zeros(1, 3, 3, dtype=torch.double)
    expected, _ = by_steps(advance, inputs, zeros, starts, zeros)
    torch.testing.assert_close(values[:, :, 0], expected)
