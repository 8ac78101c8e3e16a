"""Attention to whole sequences, against sums written out one pair of times after another."""

import math

import pytest
import torch

from fwrl import ConfigError
from fwrl.bench.translation.attention import SequenceAttention, SequenceAttentionConfig
from fwrl.feature_maps import dpfp, elu_plus_one

KERNELS = {
    None: lambda q, k: math.exp(float(q @ k) / math.sqrt(len(q))),
    "elu_plus_one": lambda q, k: float(elu_plus_one(q) @ elu_plus_one(k)),
    "dpfp": lambda q, k: float(dpfp(q, 2) @ dpfp(k, 2)),
}
every_map = pytest.mark.parametrize(
    "name", [*KERNELS, "relu", "softmax", "favor", "favor_hyperbolic", "favor_relu"]
)


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def make(name, heads=2, width=8):
    torch.manual_seed(0)
    config = SequenceAttentionConfig(heads=heads, feature_map=name, nu=2, num_features=6)
    return SequenceAttention(width, config).double()


def sequences():
    torch.manual_seed(1)
    x = torch.randn(3, 4, 8, dtype=torch.double)
    y = torch.randn(3, 6, 8, dtype=torch.double)
    present = torch.arange(6) < torch.tensor([[6], [2], [4]])
    return x, y, present


@pytest.mark.parametrize("name", KERNELS)
def test_a_read_is_a_mean_of_values_weighted_by_the_kernel(name):
    attention = make(name)
    x, y, present = sequences()
    found = attention.read(x, attention.readable(y, present))
    for b in range(3):
        for t in range(4):
            heads = []
            for h in range(2):
                part = slice(4 * h, 4 * h + 4)
                query = attention.query(x[b, t])[part]
                both = attention.key_value(y[b])
                weights, total = [], torch.zeros(4, dtype=torch.double)
                for s in range(int(present[b].sum())):
                    weights.append(KERNELS[name](query, both[s, :8][part]))
                    total = total + weights[-1] * both[s, 8:][part]
                heads.append(total / sum(weights))
            expected = attention.output(torch.cat(heads))
            torch.testing.assert_close(found[b, t], expected, atol=1e-10, rtol=1e-8)


@every_map
def test_padding_is_not_read(name):
    attention = make(name)
    x, y, present = sequences()
    found = attention.read(x, attention.readable(y, present))
    other = torch.where(present.unsqueeze(-1), y, 1e3)
    again = attention.read(x, attention.readable(other, present))
    torch.testing.assert_close(found, again, atol=0, rtol=0)
    for row, length in enumerate((6, 2, 4)):
        one = slice(row, row + 1)
        alone = attention.readable(y[one, :length], present[one, :length])
        torch.testing.assert_close(attention.read(x[one], alone), found[one])


@every_map
def test_the_order_of_what_is_read_does_not_matter(name):
    attention = make(name)
    x, y, present = sequences()
    forwards = attention.read(x, attention.readable(y, present))
    backwards = attention.read(x, attention.readable(y.flip(1), present.flip(1)))
    torch.testing.assert_close(forwards, backwards)


@every_map
def test_with_a_feature_map_what_is_kept_has_a_fixed_size(name):
    attention = make(name)
    sizes = set()
    for length in (3, 30):
        y = torch.randn(1, length, 8, dtype=torch.double)
        kept = attention.readable(y, torch.ones(1, length, dtype=torch.bool))
        sizes.add(kept.values.numel() + kept.keys.numel() + kept.present.numel())
    assert len(sizes) == (2 if name is None else 1)


def test_half_precision_reads_sums_in_full():
    attention = make("elu_plus_one").float()
    x, y, present = sequences()
    exact = attention.read(x.float(), attention.readable(y.float(), present))
    with torch.autocast("cpu", torch.bfloat16):
        kept = attention.readable(y.float(), present)
        found = attention.read(x.float(), kept)
    assert kept.values.dtype == torch.float32
    torch.testing.assert_close(found.float(), exact, atol=0.03, rtol=0.03)


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match="input_size 8 does not divide into 3 heads"):
        make("dpfp", heads=3)
