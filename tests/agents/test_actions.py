import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import distributions

from agents.actions import IMPOSSIBLE, Categorical, Gaussian, make_head
from fwrl import use_kernel
from fwrl.config import ConfigError

DISCRETE = {
    "discrete": (spaces.Discrete(5), [5]),
    "discrete from 3": (spaces.Discrete(4, start=3), [4]),
    "unequal": (spaces.MultiDiscrete([3, 2, 4]), [3, 2, 4]),
    "equal": (spaces.MultiDiscrete([3, 3]), [3, 3]),
    "from -1": (spaces.MultiDiscrete([3, 2], start=[-1, 5]), [3, 2]),
    "square": (spaces.MultiDiscrete([[2, 3], [4, 1]]), [2, 3, 4, 1]),
    "binary": (spaces.MultiBinary(3), [2] * 3),
    "binary square": (spaces.MultiBinary((2, 3)), [2] * 6),
}
discrete = pytest.mark.parametrize(("space", "sizes"), DISCRETE.values(), ids=DISCRETE)
WIDTH = 6


def head_and_features(space, leading=(7,), mask=None):
    torch.manual_seed(0)
    head = make_head(space, WIDTH, mask)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head, torch.randn(*leading, WIDTH)


def peers(head, x, sizes):
    """PyTorch's distributions of each factor."""
    return [distributions.Categorical(logits=part) for part in head.linear(x).split(sizes, -1)]


@discrete
@pytest.mark.parametrize("leading", [(7,), (2, 3)])
def test_log_prob_entropy_and_mode_equal_torch_distributions(space, sizes, leading):
    head, x = head_and_features(space, leading)
    found, expected = head(x), peers(head, x, sizes)
    action = found.sample()
    assert action.shape == (*leading, len(sizes))
    assert action.dtype == torch.int64
    log_prob = sum(peer.log_prob(action[..., i]) for i, peer in enumerate(expected))
    torch.testing.assert_close(found.log_prob(action), log_prob)
    torch.testing.assert_close(found.entropy(), sum(peer.entropy() for peer in expected))
    mode = torch.stack([peer.probs.argmax(-1) for peer in expected], -1)
    assert torch.equal(found.mode(), mode)


# one factor and several; fewer choices than a vector has lanes, more than are looked at together
@pytest.mark.parametrize("shape", [(64, 1, 4), (16, 3, 7), (8, 2, 200), (20_000, 2, 5), (0, 1, 4)])
@torch.no_grad()
def test_a_draw_in_c_is_that_of_torch(shape, variant):
    torch.manual_seed(0)
    log_probs = torch.log_softmax(2 * torch.randn(shape), -1)
    log_probs[1:2, :, 1] = torch.nan
    log_probs[2:3, :, 1:] = IMPOSSIBLE
    distribution, drawn = Categorical(log_probs), []
    for kernel in ("native", "reference"):
        torch.manual_seed(1)
        with use_kernel(kernel):
            drawn.append((*distribution.draw(), torch.rand(1)))
    (action, *others), (expected, *expected_others) = drawn
    assert torch.equal(action, expected)
    torch.testing.assert_close(others, expected_others, equal_nan=True)
    torch.manual_seed(1)
    assert torch.equal(distribution.sample(), action)
    torch.testing.assert_close(others[0], distribution.log_prob(action), equal_nan=True)


@discrete
def test_sampling_frequencies_are_the_probabilities(space, sizes):
    head, x = head_and_features(space, (1,))
    torch.manual_seed(1)
    action = head(x.expand(20_000, -1)).sample()
    for i, peer in enumerate(peers(head, x[0], sizes)):
        frequencies = action[:, i].bincount(minlength=sizes[i]) / len(action)
        # four standard deviations
        torch.testing.assert_close(frequencies, peer.probs.detach(), atol=0.015, rtol=0)


@discrete
def test_every_action_reaches_the_environment_within_its_space(space, sizes):
    head, x = head_and_features(space)
    torch.manual_seed(0)
    for action in (head(0 * x).sample(), torch.zeros(7, len(sizes), dtype=torch.int64)):
        numbers = head.to_environment(action)
        assert numbers.shape == (7, *space.shape)
        assert all(space.contains(row.astype(space.dtype)) for row in numbers)
    first = space.start if hasattr(space, "start") else 0
    assert (numbers == first).all()
    largest = torch.tensor(sizes).sub(1).expand(7, -1)
    assert np.array_equal(
        head.to_environment(largest)[0].flatten(),
        (np.array(sizes) - 1).reshape(space.shape).flatten() + np.ravel(first),
    )


@discrete
def test_the_previous_action_is_one_hot_in_each_factor(space, sizes):
    head, x = head_and_features(space)
    action = head(x).sample()
    features = head.features(action)
    assert features.shape == (7, head.feature_size)
    for part, chosen in zip(features.split(sizes, -1), action.unbind(-1), strict=True):
        assert torch.equal(part, torch.nn.functional.one_hot(chosen, part.shape[-1]).float())


@discrete
@pytest.mark.parametrize("leading", [(64,), (16, 4)])
def test_masked_actions_are_impossible(space, sizes, leading):
    choices = sum(sizes)
    head, x = head_and_features(space, leading, mask=spaces.MultiBinary(choices))
    mask = torch.rand(*leading, choices) < 0.5
    # one choice of each factor stays possible
    for part in mask.split(sizes, -1):
        part[..., 0] |= ~part.any(-1)
    for kind in (mask, mask.to(torch.int8), mask.float()):
        found = head(x, kind)
        entropy = found.entropy()
        for action in (found.mode(), *(found.sample() for _ in range(10))):
            chosen = head.features(action)
            assert (chosen <= mask).all()
            assert found.log_prob(action).isfinite().all()
    probabilities = [
        part[..., :size] for part, size in zip(found.log_probs.exp().unbind(-2), sizes, strict=True)
    ]
    probabilities = torch.cat(probabilities, -1)
    assert (probabilities[~mask] == 0).all()
    assert (probabilities[mask] > 0).all()
    expected = [
        distributions.Categorical(logits=part)
        for part in head.linear(x).masked_fill(~mask, -torch.inf).split(sizes, -1)
    ]
    torch.testing.assert_close(probabilities, torch.cat([peer.probs for peer in expected], -1))
    (found.log_prob(action) + entropy).sum().backward()
    assert entropy.isfinite().all()
    assert (entropy >= 0).all()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    assert (head.linear.weight.grad != 0).any()


@discrete
def test_a_mask_that_leaves_nothing_still_gives_an_action_of_the_space(space, sizes):
    head, x = head_and_features(space)
    found = head(x, torch.zeros(7, sum(sizes)))
    for action in (found.mode(), found.sample()):
        assert (action < torch.tensor(sizes)).all()
        assert found.log_prob(action).isfinite().all()
    expected = float(np.log(sizes).sum())
    torch.testing.assert_close(found.entropy(), torch.full((7,), expected))


def test_the_first_policy_is_nearly_uniform():
    head = make_head(spaces.Discrete(4), WIDTH)
    probabilities = head(torch.randn(50, WIDTH)).log_probs.exp()
    torch.testing.assert_close(
        probabilities, torch.full_like(probabilities, 0.25), atol=0.02, rtol=0
    )


BOX = spaces.Box(np.float32([-2.0, 0.0, -np.inf]), np.float32([2.0, 10.0, np.inf]))


@pytest.mark.parametrize("leading", [(7,), (2, 3)])
def test_the_gaussian_equals_torch_distributions(leading):
    head, x = head_and_features(BOX, leading)
    found = head(x)
    expected = distributions.Normal(head.mean(x), head.log_std.exp())
    action = found.sample()
    assert action.shape == (*leading, 3)
    torch.testing.assert_close(found.log_prob(action), expected.log_prob(action).sum(-1))
    torch.testing.assert_close(found.entropy(), expected.entropy().sum(-1).expand(leading))
    assert torch.equal(found.mode(), expected.mean)


def test_gaussian_samples_have_its_moments():
    torch.manual_seed(0)
    mean, log_std = torch.tensor([1.0, -2.0]), torch.tensor([0.0, -1.0])
    action = Gaussian(mean.expand(20_000, 2), log_std.expand(20_000, 2)).sample()
    torch.testing.assert_close(action.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(action.std(0), log_std.exp(), atol=0.03, rtol=0)


def test_minus_one_and_one_are_the_bounds_of_a_box():
    head = make_head(BOX, WIDTH)
    found = head.to_environment(torch.tensor([[-1.0] * 3, [0.0] * 3, [1.0] * 3, [9.0] * 3]))
    expected = [[-2, 0, -1], [0, 5, 0], [2, 10, 1], [2, 10, 9]]
    assert found.dtype == np.float32
    assert found.tolist() == expected
    assert torch.equal(
        head.features(torch.tensor([[-9.0, 0.5, 9.0]])), torch.tensor([[-3.0, 0.5, 3.0]])
    )


@pytest.mark.parametrize("shape", [(), (2, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_boxes_of_other_ranks_and_types(shape, dtype):
    space = spaces.Box(-1, 1, shape, dtype)
    head, x = head_and_features(space)
    found = head.to_environment(head(x).sample())
    assert found.shape == (7, *shape)
    assert found.dtype == dtype
    assert all(space.contains(np.asarray(row, dtype)) for row in found)


def test_a_box_bounded_on_one_side_is_cut_there():
    head = make_head(spaces.Box(0, np.inf, (1,)), WIDTH)
    assert head.to_environment(torch.tensor([[-3.0], [3.0]])).tolist() == [[0.0], [3.0]]


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_features_give_finite_numbers(scale):
    for space in (spaces.Discrete(4), spaces.MultiDiscrete([2, 3]), BOX):
        head, x = head_and_features(space)
        found = head(scale * x)
        action = found.sample()
        loss = (found.log_prob(action) + found.entropy()).sum()
        loss.backward()
        assert loss.isfinite()
        assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
        assert np.isfinite(head.to_environment(action)).all()


@pytest.mark.parametrize("log_std", [-15.0, 15.0])
def test_extreme_spreads_give_finite_numbers(log_std):
    head, x = head_and_features(BOX)
    head.log_std.data.fill_(log_std)
    found = head(x)
    loss = found.log_prob(found.sample()) + found.entropy()
    loss.sum().backward()
    assert loss.isfinite().all()
    assert head.log_std.grad.isfinite().all()


def test_spaces_without_a_head_are_refused():
    unknown = [spaces.Text(3), spaces.Box(0, 9, (2,), np.int64), spaces.Dict(a=spaces.Discrete(2))]
    for space in unknown:
        with pytest.raises(ConfigError, match="no action head serves the action space") as error:
            make_head(space, WIDTH)
        assert "\n" not in str(error.value)


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(
        ConfigError,
        match=r"action_mask is in MultiBinary\(4\);.* need one number for each of their 5",
    ):
        make_head(spaces.MultiDiscrete([2, 3]), WIDTH, spaces.MultiBinary(4))
    with pytest.raises(ConfigError, match="need no mask"):
        make_head(BOX, WIDTH, spaces.MultiBinary(3))
    with pytest.raises(ConfigError, match="action_mask is in Dict"):
        make_head(spaces.Discrete(1), WIDTH, spaces.Dict(a=spaces.Discrete(2)))
