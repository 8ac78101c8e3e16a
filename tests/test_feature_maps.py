import math

import pytest
import torch

from fwrl.feature_maps import (
    FEATURE_MAPS,
    SIGNED,
    Favor,
    FeatureMap,
    FeatureOptions,
    dpfp,
    elu_plus_one,
    normalise,
    orthogonal_directions,
)

every_map = pytest.mark.parametrize("name", sorted(FEATURE_MAPS))


def vector(*numbers):
    return torch.tensor(numbers, dtype=torch.double)


def make(name, how="none", key_size=4):
    torch.manual_seed(0)
    return FeatureMap(name, FeatureOptions(key_size, nu=2, num_features=6), how)


def test_elu_plus_one_is_the_worked_example():
    torch.testing.assert_close(elu_plus_one(vector(1, -2, 3)), vector(2, math.exp(-2), 4))


@pytest.mark.parametrize(
    ("x", "nu", "expected"),
    [
        ((0.5, -0.25), 1, (0.125, 0, 0, 0)),
        ((1, -2, 3), 1, (0, 0, 0, 0, 0, 0)),
        ((1, -2, 3), 2, (0, 0, 0, 0, 0, 0, 2, 0, 3, 0, 6, 0)),
    ],
)
def test_dpfp_is_the_worked_example(x, nu, expected):
    torch.testing.assert_close(dpfp(vector(*x), nu), vector(*expected))


def test_dpfp_shifts_of_half_a_turn_and_more_add_nothing():
    key_size = 3
    x = torch.randn(50, key_size, dtype=torch.double)
    blocks = dpfp(x, nu=2 * key_size - 1).unflatten(-1, (-1, 2 * key_size))
    assert not blocks[:, key_size - 1].any()
    for shift in range(key_size + 1, 2 * key_size):
        mirrored = blocks[:, 2 * key_size - shift - 1]
        torch.testing.assert_close(blocks[:, shift - 1].sort().values, mirrored.sort().values)


@every_map
@pytest.mark.parametrize("how", ["sum", "l2", "none"])
def test_all_zero_inputs_and_features_stay_finite(name, how):
    x = torch.zeros(2, 4, requires_grad=True)
    features = make(name, how)(x)
    (gradient,) = torch.autograd.grad(features.square().sum(), x)
    assert features.isfinite().all()
    assert gradient.isfinite().all()


@every_map
def test_a_time_sees_only_itself_and_the_size_is_told(name):
    features = make(name)
    x = torch.randn(5, 3, 4)
    whole = features(x)
    assert whole.shape == (5, 3, features.size)
    torch.testing.assert_close(whole[2], features(x[2]))
    if name not in SIGNED:
        assert (whole >= 0).all()


@every_map
def test_features_are_float32_also_from_bfloat16_under_autocast(name):
    features = make(name, "l2")
    x = torch.randn(5, 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = features(x)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, features(x.float()))


def test_normalised_features_have_unit_sum_or_unit_length():
    x = torch.rand(5, 4, dtype=torch.double) + 1
    torch.testing.assert_close(normalise(x, "sum").sum(-1), torch.ones(5, dtype=torch.double))
    length = normalise(x, "l2").norm(dim=-1)
    torch.testing.assert_close(length, torch.ones_like(length), atol=1e-6, rtol=0)
    assert normalise(x, "none") is x
    zeros = torch.zeros(3)
    assert not normalise(zeros, "sum").any()
    assert not normalise(zeros, "l2").any()


@pytest.mark.parametrize("num_features", [3, 4, 11])
def test_directions_are_orthogonal_in_blocks_also_beyond_the_key_size(num_features):
    rows = orthogonal_directions(4, num_features)
    assert rows.shape == (num_features, 4)
    for block in rows.split(4):
        gram = block @ block.T
        off_diagonal = gram - gram.diagonal().diag()
        torch.testing.assert_close(off_diagonal, torch.zeros_like(gram), atol=1e-5, rtol=0)


def test_directions_lean_to_no_side():
    # without the sign correction of the decomposition this mean is near -0.8
    generator = torch.Generator().manual_seed(0)
    firsts = torch.stack([orthogonal_directions(16, 16, generator)[:, 0] for _ in range(300)])
    assert abs(firsts.mean()) < 0.1
    torch.testing.assert_close(firsts.std(), torch.tensor(1.0), atol=0.05, rtol=0)


@pytest.mark.parametrize("cosine", [1.0, 0.0])
def test_favor_estimates_the_weight_of_softmax_attention(cosine):
    size = 16
    x = torch.full((size,), size**-0.5)
    half = torch.cat([x[: size // 2], -x[size // 2 :]])
    # unit vectors, scaled so that their attention logit is the cosine
    y = (x * cosine if cosine else half) * size**0.25
    x = x * size**0.25
    torch.manual_seed(0)
    favor = Favor(size, 16)
    estimates = []
    for _ in range(3000):
        favor.redraw()
        estimates.append(favor(x) @ favor(y))
    estimates = torch.stack(estimates)
    error = estimates.mean() - math.exp(cosine)
    assert abs(error) < 4 * estimates.std() / math.sqrt(len(estimates))


def test_favor_keeps_its_directions_until_asked_and_saves_them():
    torch.manual_seed(0)
    favor, other = Favor(4, 8), Favor(4, 8)
    x = torch.randn(3, 4)
    torch.testing.assert_close(favor(x), favor(x), atol=0, rtol=0)
    assert not torch.equal(favor(x), other(x))
    other.load_state_dict(favor.state_dict())
    torch.testing.assert_close(favor(x), other(x), atol=0, rtol=0)
    other.redraw()
    assert not torch.equal(favor(x), other(x))


def test_favor_does_not_overflow():
    torch.manual_seed(0)
    favor = Favor(64, 64)
    worst = favor.projection * 64**0.25
    assert favor(torch.cat([worst, 1e4 * worst])).isfinite().all()
