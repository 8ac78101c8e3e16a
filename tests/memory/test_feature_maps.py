import math

import pytest
import torch

from fwrl.feature_maps import (
    FEATURE_MAPS,
    FeatureMap,
    FeatureOptions,
    _formula,
    dpfp,
    elu_plus_one,
    normalise,
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


@pytest.mark.parametrize("nu", [1, 2, 7])
@pytest.mark.parametrize("shape", [(4,), (3, 2, 4), (0, 4)])
def test_dpfp_and_its_gradient_are_those_of_the_formula(nu, shape):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(nu))
    # zero is where the half-axes have a corner
    x[..., 0] = 0
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    ours, expected = dpfp(leaves[0], nu), _formula(leaves[1], nu)
    assert torch.equal(ours, expected)
    weights = torch.randn_like(ours)
    (ours * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


def test_dpfp_is_all_zero_only_where_signs_alternate_around_an_odd_size():
    generator = torch.Generator().manual_seed(0)
    for key_size in (2, 3, 4, 5, 8):
        x = torch.randn(2000, key_size, generator=generator, dtype=torch.double)
        neighbours = x * x.roll(1, dims=-1)
        # around an odd circle one pair of neighbours must agree: the ends
        alternates = (neighbours[:, 1:] < 0).all(dim=-1)
        empty = (dpfp(x) == 0).all(dim=-1)
        assert torch.equal(empty, alternates if key_size % 2 else torch.zeros_like(empty))


def test_dpfp_is_of_the_second_degree_until_it_is_normalised():
    x = torch.randn(20, 4, dtype=torch.double)
    torch.testing.assert_close(dpfp(2 * x, nu=2), 4 * dpfp(x, nu=2))
    features = make("dpfp", "sum")
    torch.testing.assert_close(features(2 * x), features(x), atol=1e-4, rtol=1e-4)


def test_tanh_is_elementwise_and_signed():
    torch.testing.assert_close(
        make("tanh")(vector(0, math.log(2) / 2, -math.log(3) / 2, 50)), vector(0, 1 / 3, -1 / 2, 1)
    )


@every_map
def test_the_table_knows_which_features_can_be_negative(name):
    features = make(name)(10 * torch.randn(200, 4))
    assert (features < 0).any() == FEATURE_MAPS[name].signed


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
