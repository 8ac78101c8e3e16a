import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.advantages import gae


def test_termination_and_truncation_by_hand():
    # two rows with the same rewards and values; the first ends at t=1 by the task, where nothing
    # follows, the second by the clock, where the final observation would have been worth 8
    reward = torch.tensor([[1.0, 2.0, 4.0]] * 2)
    value = torch.tensor([[0.5, 1.0, 2.0]] * 2)
    next_value = torch.tensor([[1.0, 0.0, 6.0], [1.0, 8.0, 6.0]])
    last = torch.tensor([[False, True, False]] * 2)
    advantage = gae(reward, value, next_value, last, discount=0.5, gae_lambda=0.5)
    # t=2: 4 + 0.5*6 - 2 = 5, in both, and none of it reaches the episode before
    # t=1: 2 + 0.5*0 - 1 = 1, or 2 + 0.5*8 - 1 = 5
    # t=0: 1 + 0.5*1 - 0.5 = 1, and 0.25 of the advantage at t=1
    torch.testing.assert_close(advantage, torch.tensor([[1.25, 1.0, 5.0], [2.25, 5.0, 5.0]]))


rows = st.integers(1, 12).flatmap(
    lambda length: st.lists(
        st.tuples(*[st.floats(-3, 3)] * 3, st.booleans(), st.booleans()),
        min_size=length,
        max_size=length,
    )
)


@given(rows, st.floats(0, 1), st.floats(0, 1))
def test_equals_the_weighted_sum_of_n_step_errors(row, discount, gae_lambda):
    reward, value, next_value, last, terminated = map(np.array, zip(*row, strict=True))
    next_value = np.where(last & terminated, 0.0, next_value)
    error = reward + discount * next_value - value
    expected = np.zeros(len(row))
    for t in range(len(row)):
        for k in range(t, len(row)):
            expected[t] += (discount * gae_lambda) ** (k - t) * error[k]
            if last[k]:
                break
    tensors = [torch.tensor(column).unsqueeze(0) for column in (reward, value, next_value, last)]
    advantage = gae(*tensors, discount, gae_lambda)
    np.testing.assert_allclose(advantage[0].numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("gae_lambda", [0.0, 1.0])
def test_the_ends_of_lambda(gae_lambda):
    torch.manual_seed(0)
    reward, value = torch.randn(2, 5), torch.randn(2, 5)
    next_value = torch.cat([value[:, 1:], torch.randn(2, 1)], 1)
    advantage = gae(reward, value, next_value, torch.zeros(2, 5, dtype=torch.bool), 0.9, gae_lambda)
    if gae_lambda == 0:
        expected = reward + 0.9 * next_value - value
    else:
        powers = 0.9 ** torch.arange(5)
        tail = [(reward[:, t:] * powers[: 5 - t]).sum(1) for t in range(5)]
        bootstrap = torch.stack([0.9 ** (5 - t) * next_value[:, -1] for t in range(5)], 1)
        expected = torch.stack(tail, 1) + bootstrap - value
    torch.testing.assert_close(advantage, expected)
