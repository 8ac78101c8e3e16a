"""The errors of random features: measured as they are defined, and as large as theory says."""

import math
import statistics

import pytest
import torch

from fwrl.bench.favor.task import (
    attention_error,
    attention_inputs,
    expected_kernel_error,
    kernel,
    kernel_error,
    linear_attention,
    orthogonal_bound,
    pairs_at,
    softmax_attention,
)
from fwrl.feature_maps import FEATURE_MAPS
from fwrl.feature_maps.random import RandomFeatures, favor, random_directions

SIZE = 16
MAPS = ("favor", "favor_hyperbolic", "favor_trigonometric")
COSINES = torch.tensor([-0.9, 0.0, 0.9])
every_map = pytest.mark.parametrize("name", MAPS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_exact_attention_is_a_mean_of_values_weighed_by_exponentials_of_logits():
    inputs = attention_inputs(5, SIZE, 1.5, generator())
    query, key, value = inputs.tolist()
    for q, found in zip(query, softmax_attention(inputs), strict=True):
        weights = [
            math.exp(sum(a * b for a, b in zip(q, k, strict=True)) / math.sqrt(SIZE)) for k in key
        ]
        for column, number in enumerate(found.tolist()):
            mean = sum(w * v[column] for w, v in zip(weights, value, strict=True)) / sum(weights)
            assert number == pytest.approx(mean)


def test_inputs_have_the_deviations_that_are_asked_for():
    query, key, value = attention_inputs(20_000, SIZE, 0.5, generator())
    for drawn, deviation in ((query, 0.5), (key, 0.5), (value, 1.0)):
        assert drawn.dtype == torch.double
        assert drawn.std().item() == pytest.approx(deviation, rel=0.01)
        assert abs(drawn.mean().item()) < 0.01
    logits = query[:2000] @ key[:2000].T / math.sqrt(SIZE)
    assert logits.std().item() == pytest.approx(0.25, rel=0.02)


def test_linear_attention_weighs_each_value_by_the_product_of_features():
    query, key, value = torch.rand(3, 4, 6, dtype=torch.double, generator=generator())
    found = linear_attention(query, key, value)
    for q, row in zip(query, found, strict=True):
        weights = torch.stack([q @ k for k in key])
        expected = sum(w * v for w, v in zip(weights, value, strict=True)) / weights.sum()
        torch.testing.assert_close(row, expected)


def test_the_error_is_the_mean_square_of_the_differences_of_outputs():
    inputs = attention_inputs(6, SIZE, 0.5, generator())
    exact = softmax_attention(inputs)
    features = RandomFeatures(favor, SIZE, 8)
    features.redraw(generator(1))
    rows, (query, key, value) = features.projection.double(), inputs / SIZE**0.25
    estimates = []
    for q in query:
        weights = [((rows @ (q + k)).exp().mean() * (-(q @ q + k @ k) / 2).exp()) for k in key]
        estimates.append(sum(w * v for w, v in zip(weights, value, strict=True)) / sum(weights))
    difference = torch.stack(estimates) * SIZE**0.25 - exact
    expected = difference.square().mean().item()
    assert attention_error(features, inputs, exact) == pytest.approx(expected, rel=1e-6)


def test_pairs_have_the_lengths_and_angles_that_are_asked_for():
    x, y = pairs_at(COSINES, 0.7, SIZE)
    for z in (x, y):
        torch.testing.assert_close(z.norm(dim=-1), torch.full((3,), 0.7).double())
    torch.testing.assert_close((x * y).sum(-1) / 0.49, COSINES.double())
    torch.testing.assert_close(kernel(torch.stack([x, y])), (0.49 * COSINES).exp().double())


@every_map
def test_independent_directions_err_as_much_as_the_closed_forms_say(name):
    for length in (0.35, 0.7):
        pairs = pairs_at(COSINES, length, SIZE)
        measured = kernel_error(name, "independent", pairs, SIZE, 20_000, generator())
        expected = expected_kernel_error(name, pairs, SIZE)
        torch.testing.assert_close(measured, expected, rtol=0.1, atol=0)


def test_the_error_of_one_estimate_is_that_of_its_own_directions():
    pairs = pairs_at(COSINES, 0.7, SIZE)
    measured = kernel_error("favor", "orthogonal", pairs, 10, 3, generator())
    rows = random_directions(SIZE, 3 * SIZE, "orthogonal", generator()).double()
    squares = []
    for block in rows.split(SIZE):
        for x, y in pairs.transpose(0, 1):
            terms = [((w @ (x + y)) - (x @ x + y @ y) / 2).exp().item() for w in block[:10]]
            squares.append((statistics.mean(terms) - (x @ y).exp().item()) ** 2)
    for index, number in enumerate(measured.tolist()):
        assert number == pytest.approx(statistics.mean(squares[index::3]), rel=1e-5)


def test_orthogonal_directions_stay_below_their_bound_and_the_bound_below_independence():
    pairs = pairs_at(COSINES, 0.6, SIZE)
    bound, independent = orthogonal_bound(pairs, SIZE), expected_kernel_error("favor", pairs, SIZE)
    assert (bound < independent).all()
    measured = kernel_error("favor", "orthogonal", pairs, SIZE, 4_000, generator())
    # three standard deviations of such a mean, about
    assert (measured < 1.1 * bound).all()


def test_no_closed_form_is_claimed_for_another_kernel():
    with pytest.raises(ValueError, match="favor_relu does not estimate"):
        expected_kernel_error("favor_relu", pairs_at(COSINES, 0.7, SIZE), SIZE)


def errors_of(name, scale, count, kind, draws=8, length=256):
    """Errors of attention, one for each draw of inputs and directions."""
    data, drawing, errors = generator(1), generator(2), []
    for _ in range(draws):
        inputs = attention_inputs(length, SIZE, scale, data)
        features = RandomFeatures(FEATURE_MAPS[name].apply, SIZE, count, directions=kind)
        features.redraw(drawing)
        errors.append(attention_error(features, inputs, softmax_attention(inputs)))
    return errors


@pytest.mark.parametrize("kind", ["orthogonal", "independent"])
def test_positive_features_stand_where_trigonometric_ones_break(kind):
    # large logits: the sum that divides crosses zero
    positive = statistics.median(errors_of("favor", 1.0, 16, kind))
    assert positive < statistics.median(errors_of("favor_trigonometric", 1.0, 16, kind)) / 100


@every_map
def test_with_small_logits_the_error_falls_as_one_over_the_directions(name):
    few, many = (statistics.mean(errors_of(name, 0.5, count, "orthogonal")) for count in (64, 512))
    assert 4 < few / many < 16


@every_map
def test_with_small_logits_orthogonal_directions_err_less(name):
    independent, orthogonal = (
        statistics.mean(errors_of(name, 0.5, 64, kind, draws=48))
        for kind in ("independent", "orthogonal")
    )
    assert orthogonal < independent


def test_with_small_logits_trigonometric_features_are_the_best():
    trigonometric, positive = (
        statistics.median(errors_of(name, 0.5, 128, "orthogonal"))
        for name in ("favor_trigonometric", "favor")
    )
    assert trigonometric < positive / 2
