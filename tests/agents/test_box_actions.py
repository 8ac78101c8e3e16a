"""Distributions over the actions of a Box, against those of PyTorch and sums over a fine grid."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from pydantic import ValidationError
from torch import distributions

from agents.actions import ActionConfig, make_head
from agents.distributions import Beta, Gaussian, Squashed
from fwrl.config import ConfigError

SPACE = spaces.Box(np.array([-2.0, 0.0]), np.array([5.0, 1.0]), dtype=np.float64)
WIDTH = 6
CONFIGS = {
    "gaussian": ActionConfig(std=0.5),
    "within": ActionConfig(std=0.5, std_range=(0.1, 0.7)),
    "squashed": ActionConfig(distribution="squashed"),
    "beta": ActionConfig(distribution="beta"),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def head_and_features(config, leading=(7,)):
    torch.manual_seed(0)
    head = make_head(SPACE, WIDTH, config=config)
    torch.nn.init.normal_(head.linear.weight)
    return head, torch.randn(*leading, WIDTH)


def peer(found):
    """PyTorch's distribution of the same numbers in [-1, 1], or of all real ones."""
    if isinstance(found, Gaussian):
        return distributions.Normal(found.mean, found.log_std.exp())
    if isinstance(found, Squashed):
        normal = distributions.Normal(found.mean, found.log_std.exp())
        return distributions.TransformedDistribution(normal, distributions.TanhTransform())
    whole = distributions.AffineTransform(-1.0, 2.0)
    return distributions.TransformedDistribution(distributions.Beta(found.alpha, found.beta), whole)


@every_config
@pytest.mark.parametrize("leading", [(7,), (2, 3)])
def test_probabilities_are_those_of_torch(config, leading):
    head, x = head_and_features(config, leading)
    found = head(x)
    action, log_prob = found.draw()
    assert action.shape == (*leading, 2)
    assert not action.requires_grad
    seen = action.tanh() if isinstance(found, Squashed) else action
    expected = peer(found).log_prob(seen).sum(-1)
    torch.testing.assert_close(log_prob, expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(log_prob, found.log_prob(action))


@every_config
def test_the_entropy_is_the_mean_of_the_log_probability(config):
    head, x = head_and_features(config, (3,))
    found = head(x)
    torch.manual_seed(1)
    many = type(found)(*(leaf.detach().expand(40_000, 3, 2) for leaf in found))
    sampled = -many.log_prob(many.sample())
    # five standard errors
    error = 5 * sampled.std(0) / 40_000**0.5
    assert ((sampled.mean(0) - found.entropy()).abs() < error + 1e-3).all()
    found.entropy().sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in head.parameters() if leaf.grad is not None)


@every_config
def test_mean_and_deviation_are_those_of_samples(config):
    head, x = head_and_features(config, (3,))
    found = head(x)
    torch.manual_seed(1)
    many = type(found)(*(leaf.detach().expand(40_000, 3, 2) for leaf in found))
    action = many.sample()
    action = action.tanh() if isinstance(found, Squashed) else action
    mean, std = found.moments()
    torch.testing.assert_close(mean.detach(), action.mean(0), atol=0.03, rtol=0)
    torch.testing.assert_close(std.detach(), action.std(0), atol=0.03, rtol=0)


@every_config
def test_actions_reach_the_environment_within_its_space(config):
    head, x = head_and_features(config)
    for features in (x, 100 * x, -100 * x):
        found = head(features)
        for action in (found.sample(), found.mode()):
            numbers = head.to_environment(action)
            assert all(SPACE.contains(row) for row in numbers)
            exported = head.environment_action(action)
            np.testing.assert_allclose(exported.detach().numpy(), numbers)
            assert found.log_prob(action).isfinite().all()
            assert (head.features(action).abs() <= 3).all()
    middle = make_head(SPACE, WIDTH, config=config)(torch.zeros(1, WIDTH)).mode()
    np.testing.assert_allclose(head.to_environment(middle), [[1.5, 0.5]], atol=1e-6)


def test_the_mode_of_a_beta_distribution_is_its_hill():
    found = Beta(torch.tensor([[1.5, 4.0]]), torch.tensor([[3.0, 1.2]]))
    grid = torch.linspace(-0.999, 0.999, 2001)
    log_prob = torch.stack([found.log_prob(each.expand(1, 2)) for each in grid])
    for i in range(2):
        one = Beta(found.alpha[:, i : i + 1], found.beta[:, i : i + 1])
        log_prob = torch.stack([one.log_prob(each.view(1, 1)) for each in grid])
        assert abs(float(grid[log_prob.argmax()]) - float(one.mode())) < 2e-3


def test_a_deviation_never_reaches_its_bounds():
    config = ActionConfig(std=0.5, std_range=(0.1, 0.7))
    head, x = head_and_features(config)
    torch.testing.assert_close(head.std, torch.tensor(0.5))
    for sign, bound in ((1, 0.7), (-1, 0.1)):
        head.log_std.data.fill_(8.0 * sign)
        assert float(head.std) == pytest.approx(bound, rel=1e-2)
        head.zero_grad()
        head(x).entropy().sum().backward()
        # it can come back
        assert (head.log_std.grad != 0).all()


@pytest.mark.parametrize("kind", [Gaussian, Squashed])
def test_correlated_noise_has_the_same_distribution_at_each_step(kind):
    torch.manual_seed(0)
    found = kind(torch.full((100_000, 1), 0.4), torch.full((100_000, 1), math.log(0.5)))
    noise, seen = torch.randn(100_000, 1), []
    for _ in range(3):
        given = found.after(noise, 0.8)
        action, log_prob = given.draw()
        torch.testing.assert_close(log_prob, found.after(noise, 0.8).log_prob(action))
        noise = found.noise(action)
        seen.append(noise)
    for each in seen:
        assert abs(float(each.mean())) < 0.02
        assert float(each.std()) == pytest.approx(1.0, abs=0.02)
    for lag in (1, 2):
        assert float((seen[-1] * seen[-1 - lag]).mean()) == pytest.approx(0.8**lag, abs=0.02)


def test_mistakes_are_one_line():
    with pytest.raises(ConfigError, match="needs finite bounds"):
        make_head(spaces.Box(0, np.inf, (2,)), WIDTH, config=CONFIGS["squashed"])
    with pytest.raises(ConfigError, match=r"action: the actions are in Discrete\(3\)"):
        make_head(spaces.Discrete(3), WIDTH, config=CONFIGS["beta"])
    for values, message in (
        ({"std": 2.0, "std_range": (0.1, 1.0)}, "std is 2; it should be inside std_range"),
        ({"distribution": "beta", "noise_correlation": 0.5}, "has no noise_correlation"),
        ({"distribution": "beta", "std": 0.5}, "which has no std;"),
    ):
        with pytest.raises(ValidationError, match=message):
            ActionConfig(**values)
