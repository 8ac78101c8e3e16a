"""The peer that JAX compiles learns our tasks, with our loss.

Run by `test_bench_speed.py`, in a process of its own: others fork, which JAX's threads forbid.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from agents import ppo
from agents.actions import Categorical
from agents.advantages import gae
from agents.critic import LinearCritic
from agents.policy import PolicyInput, PolicyOutput
from agents.ppo import PPOConfig
from agents.rollout import Rollout
from envs.tasks import KeyValueRecall, RepeatPrevious
from envs.tasks.repeat_previous import LEVELS
from fwrl.bench.speed.job import TrainingConfig

jax = pytest.importorskip("jax", reason="the extra bench")
jnp = pytest.importorskip("jax.numpy")
from fwrl.bench.speed import jax_gru, jax_tasks  # noqa: E402

T, N, F_, D, A = 11, 3, 5, 6, 4
SIZES = {"num_keys": 4, "num_values": 3, "num_rewrites": 5, "num_queries": 2}


def of_jax(tensor):
    return jnp.asarray(tensor.numpy())


def close(found, expected):
    torch.testing.assert_close(
        torch.tensor(np.asarray(found)), expected.detach(), rtol=1e-5, atol=1e-5
    )


def dealt(task, count):
    return jax.jit(partial(jax_tasks.begin, task, count=count))(jax.random.key(0))


def same_everywhere(ours, task, episodes):
    """Both give the same observations, rewards and ends to the same actions, in every episode."""
    generator = np.random.default_rng(1)
    assert ours.action_space.n == task.num_answers
    for time in range(task.length):
        seen = np.asarray(jax_tasks.observe(episodes))
        assert np.array_equal(seen, ours.observe().reshape(seen.shape))
        # often right, so that both rewards occur
        action = np.where(
            generator.random(ours.num_envs) < 0.5,
            ours._answers[:, time].clip(0),
            generator.integers(task.num_answers, size=ours.num_envs),
        )
        reward, ended, _ = ours.advance(action)
        episodes, our_reward, last = jax_tasks.advance(task, episodes, jnp.asarray(action))
        assert np.array_equal(np.asarray(our_reward), reward)
        assert np.array_equal(np.asarray(last), ended)
    assert ended.all()
    seen = np.asarray(jax_tasks.observe(episodes))
    assert np.array_equal(seen, ours.observe().reshape(seen.shape))


@pytest.mark.parametrize("level", LEVELS)
def test_repeat_previous_is_ours_on_the_same_cards(level):
    ours = RepeatPrevious(N, level)
    ours.begin(np.arange(N), [np.random.default_rng(seed) for seed in range(N)])
    task = jax_tasks.repeat_previous(level)
    suits = jnp.asarray(ours._seen)
    script = jax.vmap(partial(jax_tasks.suits_in_order, k=ours.k))(suits)
    same_everywhere(ours, task, jax_tasks.Episodes(*script, jnp.zeros(N, int)))
    seen = np.asarray(dealt(task, 2).seen)
    assert seen.shape[1:] == (*ours._seen.shape[1:], 1)
    assert np.bincount(seen[0].ravel()).tolist() == [13 * ours.num_decks] * 4
    assert not np.array_equal(*seen)


def test_key_value_recall_is_ours_with_the_same_numbers():
    ours = KeyValueRecall(N, **SIZES)
    scripts = []
    for seed in range(N):
        generator = np.random.default_rng(seed)
        # in the order in which ours draws them
        again = generator.integers(4, size=5)
        keys = generator.permutation(np.concatenate([np.arange(4), again]))
        start = generator.integers(3, size=4)
        change = generator.integers(1, 3, size=9)
        queries = generator.permutation(4)[:2]
        numbers = map(jnp.asarray, (keys, start, change, queries))
        scripts.append(jax_tasks.pairs_in_order(*numbers, 3))
    ours.begin(np.arange(N), [np.random.default_rng(seed) for seed in range(N)])
    script = jax.tree.map(lambda *rows: jnp.stack(rows), *scripts)
    task = jax_tasks.key_value_recall(**SIZES)
    same_everywhere(ours, task, jax_tasks.Episodes(*script, jnp.zeros(N, int)))


def test_what_key_value_recall_deals_is_a_game_of_ours():
    task = jax_tasks.key_value_recall(**SIZES)
    episodes = dealt(task, 50)
    for seen, answers in zip(np.asarray(episodes.seen), np.asarray(episodes.answers), strict=True):
        latest = {}
        for key, value in seen[:9].tolist():
            assert latest.get(key) != value
            latest[key] = value
        assert set(latest) == {0, 1, 2, 3}
        asked = seen[9:11, 0].tolist()
        assert len(set(asked)) == 2
        assert answers[9:].tolist() == [latest[key] for key in asked]
        assert (answers[:9] == -1).all()
        assert (seen[9:, 1] == 3).all()


def test_only_what_has_ended_is_dealt_again():
    task = jax_tasks.repeat_previous("easy")
    before = dealt(task, N)._replace(time=jnp.array([3, 51, 4]))
    last = jnp.array([False, True, False])
    after = jax_tasks.reopen(task, before, last, jax.random.key(1))
    assert after.time.tolist() == [3, 0, 4]
    same = (before.seen == after.seen).all((1, 2))
    assert same.tolist() == [True, False, True]
    unmoved = jax_tasks.reopen(task, before, last & False, jax.random.key(1))
    assert all(map(np.array_equal, unmoved, before))


class Twin(nn.Module):
    """The network in PyTorch, its GRU called once for each episode that the starts make."""

    def __init__(self, parameters):
        super().__init__()
        self.critic = LinearCritic()
        self.weights = nn.ParameterDict(
            {name: torch.tensor(np.asarray(array)) for name, array in parameters.items()}
        )

    def linear(self, name, x):
        return x @ self.weights[name] + self.weights[f"{name}_bias"]

    def states(self, features, starts, state):
        """A GRU as PyTorch defines it, step by step."""
        w = self.weights
        flat = [w["input"].T, w["recurrent"].T, w["input_bias"], w["recurrent_bias"]]
        x = self.linear("encoder", features).relu()
        found = []
        for x_t, starts_t in zip(x, starts, strict=True):
            state = torch.gru_cell(x_t, state.masked_fill(starts_t[:, None], 0.0), *flat)
            found.append(state)
        return torch.stack(found)

    def unroll(self, inputs, memory):
        features = inputs.observation.transpose(0, 1)
        y = self.states(features, inputs.starts.T, memory).transpose(0, 1)
        logits = self.linear("logits", self.linear("actor", y).relu())
        value = self.linear("value", self.linear("critic", y).relu())
        choice = Categorical(F.log_softmax(logits, -1).unsqueeze(-2))
        return PolicyOutput(choice, value.squeeze(-1), value), None

    def after(self, output, noise):
        assert noise is None
        return output


class Example(NamedTuple):
    """A batch, time first, and the state before it."""

    features: torch.Tensor
    starts: torch.Tensor
    action: torch.Tensor
    log_prob: torch.Tensor
    advantage: torch.Tensor
    target: torch.Tensor


@pytest.fixture
def example():
    torch.manual_seed(0)
    starts = torch.rand(T, N) < 0.2
    assert 0 < starts[1:].sum() < T * N / 2
    # far enough from what the network says that some ratios are clipped
    log_prob = -torch.rand(T, N) * 2.5
    columns = (torch.randint(A, (T, N)), log_prob, torch.randn(T, N), torch.randn(T, N))
    return Example(torch.randn(T, N, F_), starts, *columns)


@pytest.fixture(scope="module")
def parameters():
    make = jax.jit(partial(jax_gru.make_parameters, num_features=F_, num_actions=A, width=D))
    noise = np.random.default_rng(0)
    # biases that are zero would hide a wrong one
    return {
        name: array + 0.1 * noise.normal(size=array.shape).astype(np.float32)
        for name, array in make(jax.random.key(0)).items()
    }


@pytest.mark.unchecked
def test_the_loss_and_its_gradients_are_ours(example, parameters):
    torch.manual_seed(1)
    state, config = torch.randn(N, D), PPOConfig(entropy_weight=0.03, value_weight=0.7)
    batch = jax_gru.Batch(*map(of_jax, example))
    loss, gradients = jax.value_and_grad(jax_gru.ppo_loss)(parameters, batch, of_jax(state), config)
    twin = Twin(parameters)
    inputs = PolicyInput(
        example.features.transpose(0, 1),
        torch.zeros(N, T, 1, dtype=torch.int64),
        torch.zeros(N, T),
        (~example.starts.T).long(),
    )
    rest = [column.T for column in (example.log_prob, example.target - example.advantage)]
    action = example.action.T.unsqueeze(-1)
    ours = Rollout(inputs, state, action, *rest, example.advantage.T, torch.zeros(N, T))
    expected, metrics = ppo.ppo_loss(twin, ours, config, ppo.schedule(config, 1.0))
    assert 0 < metrics["train/clip_fraction"] < 1
    close(loss, expected)
    expected.backward()
    for name, weight in twin.weights.items():
        assert weight.grad.abs().sum() > 0
        close(gradients[name], weight.grad)


def test_the_gru_forgets_where_an_episode_starts(example, parameters):
    weight, bias = parameters["recurrent"], parameters["recurrent_bias"]
    projected = of_jax(torch.randn(T, N, 3 * D))
    starts = of_jax(example.starts).at[4].set(True)
    one, other = (
        jax_gru.unroll(weight, bias, projected, starts, s * jnp.ones((N, D))) for s in (0, 1)
    )
    assert np.array_equal(one[4:], other[4:])
    assert not np.array_equal(one[0], other[0]) or starts[0].all()


def test_advantages_are_ours(example):
    reward, value, after = example.advantage, example.target, torch.randn(N)
    last = example.starts
    following = torch.cat([value[1:], after.unsqueeze(0)]).masked_fill(last, 0.0)
    expected = gae(reward.T, value.T, following.T, last.T, 0.9, 0.8)
    found = jax_gru.gae(*map(of_jax, (reward, value, after, last)), 0.9, 0.8)
    close(found, expected.T)


# compiling it takes seconds
@pytest.fixture(scope="module")
def agent():
    config = PPOConfig(num_steps=70, epochs=2, minibatches=2, learning_rate_schedule="linear")
    return jax_gru.Agent(
        TrainingConfig(
            task="RepeatPrevious",
            num_envs=4,
            width=16,
            ppo=config,
            reward_scale=48,
            previous=True,
            time_frequencies=2,
            total_steps=2 * 70 * 4,
        )
    )


@pytest.mark.slow
def test_what_is_acted_is_replayed(agent):
    job, before = agent.job, agent.carry
    carry, batch = jax.jit(partial(jax_gru.rollout, agent.task, job))(before)
    # episodes have 51 steps
    assert jnp.nonzero(batch.starts)[0].tolist() == [0] * 4 + [51] * 4
    twin = Twin(before.parameters)
    torched = [torch.tensor(np.asarray(column)) for column in batch]
    features, starts, action, log_prob, advantage, target = torched
    y = twin.states(features, starts, torch.zeros(4, 16))
    close(carry.state, y[-1])
    logits = twin.linear("logits", twin.linear("actor", y).relu())
    chosen = F.log_softmax(logits, -1).gather(-1, action.long().unsqueeze(-1))
    close(log_prob.numpy(), chosen.squeeze(-1))
    value = twin.linear("value", twin.linear("critic", y).relu()).squeeze(-1)
    close((target - advantage).numpy(), value)
    # the last of 48 answers, scaled: nothing is to come
    torch.testing.assert_close(target[50].abs(), torch.ones(4))
    # a symbol, the last action and reward, two sines and two cosines
    assert features.shape[-1] == 4 + 4 + 1 + 2 * 2
    assert not features[starts][:, 4:9].any()
    assert (features[1:, :, 4:8].argmax(-1) == action[:-1]).logical_or(starts[1:]).all()


@pytest.mark.slow
def test_it_learns_with_a_rate_that_falls(agent):
    before = jax.tree.map(np.asarray, agent.carry.parameters)
    for _ in range(2):
        agent.iterate()
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), before, agent.carry.parameters)
    assert all(moved.values())
    after = jax.tree.map(np.asarray, agent.carry.parameters)
    # the rate is zero now
    agent.iterate()
    assert all(map(np.array_equal, after.values(), agent.carry.parameters.values()))
    assert -1 <= agent.evaluate(5) <= 1


@pytest.mark.slow
@pytest.mark.learns
def test_it_solves_repeat_previous_easy():
    config = PPOConfig(
        num_steps=51,
        learning_rate=0.001,
        learning_rate_schedule="linear",
        discount=0.5,
        gae_lambda=0.9,
    )
    steps = 500_000
    job = TrainingConfig(
        task="RepeatPrevious", num_envs=64, ppo=config, reward_scale=48, total_steps=steps
    )
    agent = jax_gru.Agent(job)
    while agent.steps < steps:
        agent.iterate()
    assert agent.evaluate(100) > 0.95
