"""The task that is stepped as tensors is the task in NumPy."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from envs import EnvConfigError, GymnasiumConfig, OnDeviceConfig, make_envs
from envs.on_device import repeat_previous
from envs.on_device.repeat_previous import STRIDE, RepeatPreviousOnDevice, mixed

N = 3
TASK = "fwrl/RepeatPrevious-v0"


def actions(steps):
    return np.random.default_rng(0).integers(4, size=(steps, N))


def played(envs, steps, seed=5):
    return [envs.reset(seed), *(envs.step(action) for action in actions(steps))]


def assert_same(one, other):
    for left, right in zip(one, other, strict=True):
        assert (left is None) == (right is None)
        if left is not None:
            np.testing.assert_array_equal(left, right, strict=True)


@pytest.mark.parametrize("options", [{}, {"k": 1}, {"level": "medium", "k": 7}])
def test_with_the_same_cards_every_step_is_that_of_the_task_in_numpy(options, monkeypatch):
    first, *steps = played(make_envs(GymnasiumConfig(id=TASK, options=options), N), 250)
    # after each action the next card, and the one that opens another episode, which may not count
    cards = [first]
    for step in steps:
        ended = step.final_observation is not None
        cards += [step.final_observation if ended else step.observation, step.observation]
    dealt = iter(cards)

    def deal(stream, left):
        return stream, left, torch.as_tensor(next(dealt))

    envs = RepeatPreviousOnDevice(N, **options)
    monkeypatch.setattr(repeat_previous, "deal", deal)
    again, *answers = played(envs, 250)
    np.testing.assert_array_equal(first, again)
    assert sum(step.terminated.any() for step in steps) >= 2
    for expected, found in zip(steps, answers, strict=True):
        assert_same(expected[:6], found[:6])


def test_every_episode_deals_each_card_once():
    envs = RepeatPreviousOnDevice(N, num_decks=2)
    shown = np.zeros((N, 4), dtype=int)
    shown[range(N), envs.reset(0)] += 1
    for action in actions(103):
        step = envs.step(action)
        table = step.observation if step.final_observation is None else step.final_observation
        shown[range(N), table] += 1
    assert step.terminated.all()
    assert (shown == 26).all()


def test_suits_come_in_any_order():
    # the first two cards of a thousand episodes, of 16 kinds: 13/52 * 12/51 if alike
    envs = RepeatPreviousOnDevice(4000)
    first = envs.reset(0)
    second = envs.step(np.zeros(4000)).observation
    counts = np.bincount(first * 4 + second, minlength=16).reshape(4, 4) / 4000
    alike, unlike = 13 / 52 * 12 / 51, 13 / 52 * 13 / 51
    expected = np.where(np.eye(4), alike, unlike)
    assert abs(counts - expected).max() < 4 * np.sqrt(unlike / 4000)


def test_random_numbers_are_those_of_splitmix64():
    # the first outputs of the published generator, seeded with 0
    states = torch.tensor([STRIDE]) * torch.tensor([1, 2, 3])
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [number % 2**64 for number in mixed(states).tolist()] == published


def test_a_slot_depends_on_its_own_seed_alone():
    three, one = RepeatPreviousOnDevice(N), RepeatPreviousOnDevice(1)
    assert three.reset(7)[1:2] == one.reset(8)
    for action in actions(120):
        step, alone = three.step(action), one.step(action[1:2])
        assert step.observation[1] == alone.observation[0]
    # its next episodes too
    assert three.reset()[1:2] == one.reset()


def test_it_continues_exactly():
    envs, other = RepeatPreviousOnDevice(N), RepeatPreviousOnDevice(N)
    played(envs, 30)
    state = envs.state()
    anew, observation = other.restore(state)
    assert not anew.any()
    np.testing.assert_array_equal(observation, envs.cards.recent[:, -1])
    for action in actions(80):
        assert_same(envs.step(action)[:6], other.step(action)[:6])
    with pytest.raises(ValueError, match="'stream'"):
        other.restore({name: array[:1] for name, array in state.items()})


def test_what_was_returned_is_never_written_to_again():
    envs = RepeatPreviousOnDevice(N)
    steps = [envs.step_on_device(torch.zeros(N, dtype=torch.int64)) for _ in range(60)]
    tensors = [leaf for step in steps for leaf in step if isinstance(leaf, torch.Tensor)]
    copies = [leaf.clone() for leaf in tensors]
    played(envs, 60)
    assert all(map(torch.equal, tensors, copies))


def test_a_configuration_makes_it_and_evaluates_it_in_numpy():
    config = OnDeviceConfig(options={"level": "medium"}, num_envs=5)
    assert isinstance(make_envs(config), RepeatPreviousOnDevice)
    assert make_envs(config).rules.k == 32
    evaluated = make_envs(config, 2, evaluation=True)
    assert not hasattr(evaluated, "step_on_device")
    with pytest.raises(EnvConfigError, match=r"RepeatPrevious-v0 with .*level is 'none'"):
        make_envs(config.model_copy(update={"options": {"level": "none"}}))
    with pytest.raises(EnvConfigError, match="has no option 'size'"):
        make_envs(config.model_copy(update={"options": {"size": 3}}))


def test_torch_is_imported_only_where_it_is_named():
    code = "import sys, envs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
