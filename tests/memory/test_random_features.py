import math

import pytest
import torch

from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.cores.parts.normalised import normalised_scan
from fwrl.feature_maps import FEATURE_MAPS, FeatureMap, FeatureOptions
from fwrl.feature_maps.random import RandomFeatures, favor, favor_relu, random_directions
from fwrl.update_rules import Write, sum_rule

K = 8
SOFTMAX = ("favor", "favor_hyperbolic", "favor_trigonometric")

every_estimate = pytest.mark.parametrize("name", SOFTMAX)
# but the sum of signed features, which is no divisor
every_normalised = pytest.mark.parametrize(
    ("name", "how"), [*((name, "l2") for name in SOFTMAX), *((name, "sum") for name in SOFTMAX[:2])]
)


def pair(which, length):
    """Two vectors of this length: the same, perpendicular, at an angle or opposite."""
    x = torch.zeros(K, dtype=torch.double)
    x[:3] = torch.tensor([0.6, 0.0, 0.8])
    cosine = {"same": 1.0, "perpendicular": 0.0, "angle": 0.5, "opposite": -1.0}[which]
    aside = torch.zeros_like(x)
    aside[1] = 1.0
    y = cosine * x + math.sqrt(1 - cosine**2) * aside
    return length * x, length * y


def estimates(name, x, y, draws, count=K, kind="orthogonal"):
    """Estimates of exp(x . y), each from ``count`` directions of its own."""
    generator = torch.Generator().manual_seed(0)
    # a block of orthogonal rows is one draw
    rows = random_directions(K, draws * K, kind, generator).double().unflatten(0, (draws, K))
    rows = rows[:, :count].flatten(0, 1)
    function = FEATURE_MAPS[name].apply
    products = function(x, rows, False) * function(y, rows, False)
    return products.unflatten(-1, (-1, draws, count)).sum(dim=(0, 2)) * draws


@every_estimate
@pytest.mark.parametrize("kind", ["independent", "orthogonal"])
@pytest.mark.parametrize("which", ["same", "perpendicular", "angle", "opposite"])
def test_the_estimate_of_softmax_attention_has_no_bias(name, kind, which):
    x, y = pair(which, 1.0)
    drawn = estimates(name, x, y, 10_000, kind=kind)
    error = drawn.mean() - (x @ y).exp()
    # the estimate of one number by itself can be exact
    assert abs(error) <= 3.5 * drawn.std() / math.sqrt(len(drawn)) + 1e-12


@every_estimate
@pytest.mark.parametrize("which", ["same", "perpendicular", "angle"])
def test_independent_directions_err_as_much_as_the_paper_says(name, which):
    count = 4
    x, y = pair(which, 0.6)
    kernel = (x @ y).exp().item()
    together = (x + y).square().sum().item()
    apart = (x - y).square().sum().item()
    positive = math.exp(together) * kernel**2 * (1 - math.exp(-together)) / count
    expected = {
        "favor": positive,
        "favor_hyperbolic": positive * (1 - math.exp(-together)) / 2,
        "favor_trigonometric": math.exp(together)
        / kernel**2
        * (1 - math.exp(-apart)) ** 2
        / (2 * count),
    }[name]
    drawn = estimates(name, x, y, 200_000, count, "independent")
    measured = (drawn - kernel).square().mean().item()
    assert measured == pytest.approx(expected, rel=0.1, abs=1e-12)


@pytest.mark.parametrize("count", [2, K])
@pytest.mark.parametrize("which", ["same", "perpendicular", "opposite"])
def test_orthogonal_directions_err_less_than_their_bound(count, which):
    x, y = pair(which, 0.6)
    kernel = (x @ y).exp()
    together = (x + y).square().sum()
    independent = together.exp() * kernel**2 * (1 - (-together).exp()) / count
    gain = (kernel - (-(x @ x + y @ y) / 2).exp()).square()
    bound = independent - 2 * (count - 1) / (count * (K + 2)) * gain
    error = (estimates("favor", x, y, 100_000, count) - kernel).square()
    assert error.mean() <= bound + 3 * error.std() / math.sqrt(len(error)) + 1e-12


@every_estimate
@pytest.mark.parametrize("which", ["same", "perpendicular", "angle"])
def test_for_short_vectors_orthogonal_is_better_than_independent(name, which):
    x, y = pair(which, 0.4)
    kinds = ("independent", "orthogonal", "orthogonal_regularised")
    independent, orthogonal, regularised = (
        estimates(name, x, y, 60_000, kind=kind).var() for kind in kinds
    )
    if name == "favor_trigonometric" and which == "same":
        assert max(independent, orthogonal, regularised) < 1e-20
    else:
        assert orthogonal < 0.95 * independent
        assert regularised < orthogonal


@pytest.mark.parametrize("count", [3, 4, 11])
def test_directions_are_orthogonal_in_blocks_also_beyond_the_key_size(count):
    for kind in ("orthogonal", "orthogonal_regularised"):
        rows = random_directions(4, count, kind)
        assert rows.shape == (count, 4)
        for block in rows.split(4):
            gram = block @ block.T
            off_diagonal = gram - gram.diagonal().diag()
            torch.testing.assert_close(off_diagonal, torch.zeros_like(gram), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.norm(dim=-1), torch.full((count,), 2.0))
    assert random_directions(4, count, "independent").shape == (count, 4)


@pytest.mark.parametrize("kind", ["orthogonal", "orthogonal_regularised", "independent"])
def test_directions_lean_to_no_side(kind):
    # without the sign correction of the decomposition the mean is near -0.8
    generator = torch.Generator().manual_seed(0)
    rows = random_directions(16, 16 * 500, kind, generator)
    assert rows.mean(dim=0).abs().max() < 0.05
    torch.testing.assert_close(rows.T.cov(), torch.eye(16), atol=0.08, rtol=0)


@pytest.mark.parametrize("kind", ["orthogonal", "independent"])
def test_the_lengths_of_directions_are_those_of_normal_vectors(kind):
    generator = torch.Generator().manual_seed(0)
    square = random_directions(16, 16 * 500, kind, generator).square().sum(dim=-1)
    # of the chi-square distribution with 16 degrees of freedom
    assert square.mean().item() == pytest.approx(16, rel=0.02)
    assert square.var().item() == pytest.approx(32, rel=0.1)


def test_causal_attention_by_fast_weights_approximates_softmax_attention():
    torch.manual_seed(0)
    length, size = 64, 16
    query, key, value = torch.randn(3, 4, length, 2, size) * 0.5
    logits = torch.einsum("bthk,bshk->bhts", query, key) / math.sqrt(size)
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    attention = logits.masked_fill(future, -torch.inf).softmax(dim=-1)
    exact = torch.einsum("bhts,bshv->bthv", attention, value)
    starts = torch.zeros(4, length, dtype=torch.bool)
    errors = []
    for count in (16, 128, 1024):
        features = FeatureMap("favor", FeatureOptions(size, num_features=count), "none")
        state = torch.zeros(4, 2, count, size + 1)
        write = Write(features(key), value)
        ours, _ = normalised_scan(sum_rule, state, features(query), write, starts)
        errors.append((ours - exact).square().mean() / exact.square().mean())
    # eight times as many features each
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.01


def test_the_kernel_of_rectified_features_is_positive_and_that_of_the_paper():
    torch.manual_seed(0)
    features = RandomFeatures(favor_relu, K, 20_000, directions="independent")
    x, y = (z.float() for z in pair("angle", 3.0))
    assert (features(torch.stack([x, -x, 0 * x])) > 0).all()
    # E[relu(w.x) relu(w.y)], the arc-cosine kernel of degree 1 (Cho and Saul 2009)
    angle = math.pi / 3
    kernel = 9 / math.sqrt(K) / (2 * math.pi)
    kernel *= math.sin(angle) + (math.pi - angle) * math.cos(angle)
    product = (features(x) - 1e-3) @ (features(y) - 1e-3)
    assert product.item() == pytest.approx(kernel, rel=0.05)
    raw = RandomFeatures(favor_relu, 2, 3)
    raw.projection.copy_(torch.tensor([[1.0, 0], [0, -1], [2, 1]]))
    expected = torch.tensor([1.0, 0, 5]) * 2**-0.25 / math.sqrt(3) + 1e-3
    torch.testing.assert_close(raw(torch.tensor([1.0, 3])), expected)


def test_inputs_are_scaled_as_the_logits_of_attention_unless_that_is_switched_off():
    torch.manual_seed(0)
    scaled = RandomFeatures(favor, 16, 6)
    plain = RandomFeatures(favor, 16, 6, scale_inputs=False)
    plain.projection.copy_(scaled.projection)
    x = torch.randn(16)
    torch.testing.assert_close(scaled(2 * x), plain(x))


def test_a_memory_gets_the_features_that_its_configuration_says():
    def features_of(**values):
        core = FastWeightConfig(feature_map="favor", num_features=6, **values).build(16)
        return core.feature_map.features

    assert (features_of().scale, features_of().redraw_every) == (4**-0.25, 0)
    assert features_of(scale_inputs=False).scale == 1
    assert features_of(redraw_every=7).redraw_every == 7
    lengths = features_of(directions="orthogonal_regularised").projection.norm(dim=-1)
    torch.testing.assert_close(lengths, torch.full((6,), 2.0))


@every_normalised
def test_normalised_features_survive_inputs_of_any_size(name, how):
    torch.manual_seed(0)
    features = FeatureMap(name, FeatureOptions(64), how)
    for size in (0, 1e-30, 1, 1e4, 1e15, 1e30):
        x = (size * torch.randn(20, 64)).requires_grad_()
        made = features(x)
        total = made.sum(dim=-1) if how == "sum" else made.norm(dim=-1)
        torch.testing.assert_close(total, torch.ones(20), atol=1e-4, rtol=0)
        (gradient,) = torch.autograd.grad(made.square().sum() + made[:, 0].sum(), x)
        assert gradient.isfinite().all()


@every_normalised
def test_what_cancels_under_normalisation_changes_neither_features_nor_gradients(name, how):
    torch.manual_seed(0)
    features = FeatureMap(name, FeatureOptions(4, num_features=6), how)
    x = (2 * torch.randn(10, 4, dtype=torch.double)).requires_grad_()
    factor = torch.randn(10, features.size, dtype=torch.double)
    plain = features.features.function(
        x / math.sqrt(2), features.features.projection.double(), False
    )
    total = plain.sum(-1, keepdim=True) if how == "sum" else plain.norm(dim=-1, keepdim=True)
    ours, theirs = (
        (made, *torch.autograd.grad((made * factor).sum(), x))
        for made in (features(x), plain / total)
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["favor", "favor_hyperbolic"])
def test_positive_features_that_are_not_normalised_do_not_overflow(name):
    torch.manual_seed(0)
    features = RandomFeatures(FEATURE_MAPS[name].apply, 64, 64)
    worst = features.projection * 64**0.25
    assert features(torch.cat([worst, 1e4 * worst])).isfinite().all()
