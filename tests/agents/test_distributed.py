"""Two processes agree, and compute together what one process computes from all the data."""

import math

import pytest
import torch
from scheduled_env import EPISODES, ScheduledEnv, small_policy
from torch import nn
from training_processes import ProcessGroup

from agents import distributed
from agents.encoders import EncoderConfig
from agents.normalisers import RunningMoments
from agents.policy import PolicyConfig, RecurrentPolicy, RewardConfig
from agents.ppo import PPOConfig, make_optimizer, ppo_loss, ppo_update, schedule
from agents.rollout import EpisodeCounter, Episodes, collect, start
from fwrl.config import ConfigError
from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.run.log import gather_episodes
from fwrl.stack import StackConfig
from fwrl.state import take_rows

NUM_STEPS = 12
ROWS = torch.arange(4)


@pytest.fixture(scope="module")
def pair():
    group = ProcessGroup(2)
    yield group
    group.close()


def policy_and_rollout():
    """The same wherever it is called; the policy is no longer quite the one that acted."""
    torch.manual_seed(0)
    policy = small_policy(ScheduledEnv(EPISODES))
    envs = ScheduledEnv(EPISODES)
    carry, counter = start(envs, policy, seed=0), EpisodeCounter(envs.num_envs)
    for _ in range(2):
        rollout, carry, _ = collect(envs, policy, carry, NUM_STEPS, 0.9, 0.8, counter)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    # advantages of other moments in each half
    factor = torch.tensor([1.0, 1.0, 3.0, 3.0]).view(-1, 1)
    return policy, rollout._replace(advantage=factor * (rollout.advantage + factor))


def gradient(config, share):
    """After the backward pass on a share of the rollout's rows, and whatever is exchanged."""
    policy, rollout = policy_and_rollout()
    rows = ROWS.chunk(share)[distributed.rank()]
    loss, metrics = ppo_loss(policy, take_rows(rollout, rows), config, schedule(config, 1.0))
    loss.backward()
    distributed.average_gradients(policy.parameters())
    gradients = {name: leaf.grad.clone() for name, leaf in policy.named_parameters()}
    return gradients, {name: value.item() for name, value in metrics.items()}


@pytest.mark.parametrize("normalise", [True, False])
def test_the_averaged_gradient_is_that_of_the_joined_batch(pair, normalise):
    config = PPOConfig(normalise_advantage=normalise, value_clip=0.5)
    expected, metrics = gradient(config, 1)
    assert 0 < metrics["train/clip_fraction"] < 1
    (first, one), (second, other) = pair(gradient, config, 2)
    # the halves are not alike
    assert one["train/value_loss"] != pytest.approx(other["train/value_loss"], rel=0.1)
    for name, value in metrics.items():
        assert (one[name] + other[name]) / 2 == pytest.approx(value, rel=1e-4, abs=1e-6)
    for name, leaf in expected.items():
        assert torch.equal(first[name], second[name])
        scale = leaf.abs().max().item()
        torch.testing.assert_close(first[name], leaf, rtol=1e-4, atol=1e-5 * scale, msg=name)


def lonely_number():
    """The advantage of a rollout of one step of one stream, normalised."""
    mean, std = distributed.start_mean_and_std(torch.tensor([[3.0, 7.0][distributed.rank()]]))()
    policy, rollout = policy_and_rollout()
    row = take_rows(rollout, ROWS[distributed.rank()].view(1))
    piece = row._replace(
        inputs=row.inputs._replace(**{n: v[:, :1] for n, v in row.inputs._asdict().items()}),
        **{
            name: getattr(row, name)[:, :1]
            for name in ("action", "log_prob", "value", "advantage", "discounted")
        },
    )
    loss, _ = ppo_loss(policy, piece, PPOConfig(), schedule(PPOConfig(), 1.0))
    return mean.item(), std.item(), loss.isfinite().item()


def test_one_number_in_each_process_has_a_spread(pair):
    for mean, std, finite in pair(lonely_number):
        assert (mean, finite) == (5.0, True)
        assert std == pytest.approx(math.sqrt(8.0))


def half_missing():
    layers = nn.ModuleList([nn.Linear(2, 1), nn.Linear(1, 2)])
    used = layers[distributed.rank()]
    used.weight.grad = torch.full_like(used.weight, 4.0)
    layers[0].bias.requires_grad_(False)
    for _ in range(2):
        distributed.average_gradients(layers.parameters())
    gradients = [layer.weight.grad.flatten().tolist() for layer in layers]
    return gradients, layers[0].bias.grad, layers[1].bias.grad.tolist()


def test_a_missing_gradient_counts_as_zero(pair):
    for answer in pair(half_missing):
        # the mean over two, and the mean of two equal means
        assert answer == ([[2.0, 2.0], [2.0, 2.0]], None, [0.0, 0.0])


def state_of(policy, optimizer):
    remembered = [entry[name] for entry in optimizer.state.values() for name in sorted(entry)]
    return [leaf.clone() for leaf in (*policy.state_dict().values(), *remembered)]


def train_apart():
    """Three updates on data and random numbers of its own; everything that can move does."""
    torch.manual_seed(5)
    plans = EPISODES[:2] if distributed.is_first() else EPISODES[2:]
    config = PolicyConfig(
        core=FastWeightConfig(update_rule="delta", feature_map="favor", redraw_every=2),
        stack=StackConfig(width=16),
        encoder=EncoderConfig(normalise_observations=True),
        reward=RewardConfig(normalise=True),
    )
    envs = ScheduledEnv(plans)
    policy = RecurrentPolicy(envs.observation_space, envs.action_space, config)
    with torch.no_grad():
        policy.value.weight += distributed.rank()
    distributed.copy_from_first(policy)
    torch.manual_seed(distributed.rank())
    ppo = PPOConfig(learning_rate=1e-2, target_kl=0.02, minibatches=2)
    optimizer = make_optimizer(policy, ppo)
    carry, counter = start(envs, policy, seed=0), EpisodeCounter(envs.num_envs)
    states, counts = [state_of(policy, optimizer)], []
    seen, orders = [], []
    for _ in range(3):
        rollout, carry, _ = collect(envs, policy, carry, NUM_STEPS, 0.9, 0.8, counter)
        counts.append(ppo_update(policy, optimizer, rollout, ppo)["train/n_updates"])
        states.append(state_of(policy, optimizer))
        seen.append(rollout.inputs.observation)
        orders.append(rollout.action)
    moments = policy.encoder.moments
    return states, counts, torch.stack(seen), torch.stack(orders), (moments.count, moments.mean)


def test_after_every_update_the_processes_are_equal_to_the_last_bit(pair):
    (mine, counts, seen, actions, moments), (theirs, others, also_seen, more, _) = pair(train_apart)
    assert counts == others
    assert min(counts) < 8
    assert not torch.equal(actions, more)
    for one, other in zip(mine, theirs, strict=True):
        assert len(one) == len(other)
        assert all(map(torch.equal, one, other))
    assert not all(map(torch.equal, mine[0], mine[1]))
    everything = torch.cat([seen.flatten(0, 2), also_seen.flatten(0, 2)]).double()
    assert moments[0] == len(everything)
    torch.testing.assert_close(moments[1], everything.mean(0))


def counted_in(halves):
    moments = RunningMoments(2)
    for rows in halves[distributed.rank()]:
        moments.update(rows)
    return moments.count, moments.mean, moments.variance


def test_normalisers_count_everybody_in(pair):
    halves = 1e4 + torch.randn(2, 3, 7, 2) * torch.tensor([1.0, 5.0])
    halves[1] += 2.0
    every = halves.double().flatten(0, 2)
    first, second = pair(counted_in, halves)
    assert all(map(torch.equal, first, second))
    count, mean, variance = first
    assert count == len(every)
    torch.testing.assert_close(mean, every.mean(0))
    torch.testing.assert_close(variance, every.var(0, correction=0))


def updates_until_stopped(spread, target_kl):
    """The divergence that a process finds alone, and how many updates it makes."""
    policy, rollout = policy_and_rollout()
    rows = ROWS.chunk(2)[distributed.rank()]
    batch = take_rows(rollout, rows)
    output, _ = policy.unroll(batch.inputs, batch.memory)
    log_prob = output.action.log_prob(batch.action).detach()
    torch.manual_seed(3)
    batch = batch._replace(log_prob=log_prob + spread[distributed.rank()] * torch.randn(2, 12))
    config = PPOConfig(target_kl=target_kl, epochs=1, minibatches=1)
    alone = ppo_loss(policy, batch, config, schedule(config, 1.0))[1]["train/approx_kl"].item()
    metrics = ppo_update(policy, make_optimizer(policy, config), batch, config)
    return alone, metrics["train/n_updates"]


@pytest.mark.parametrize("spread", [(0.0, 1.0), (1.0, 0.0)])
def test_target_kl_stops_all_or_none(pair, spread):
    (kl, _), (other, _) = pair(updates_until_stopped, spread, None)
    assert (kl > 0.1) != (other > 0.1)
    joined = (kl + other) / 2
    # one of the two alone would decide otherwise, each time another one
    assert [count for _, count in pair(updates_until_stopped, spread, joined / 1.4)] == [1, 1]
    assert [count for _, count in pair(updates_until_stopped, spread, joined / 1.6)] == [0, 0]


def exchange():
    mine = distributed.rank()
    episodes = [
        Episodes([1.5, -2.0, 0.25], [3, 4, 5], [True, False, True], []),
        Episodes.none(),
    ]
    silent = [
        Episodes([7.0], [1], [None], []),
        Episodes([8.0, 9.0], [2, 3], [None, None], []),
    ]
    metrics = [{"a": 1.0, "b": math.nan}, {"a": 2.0, "b": 5.0}]
    return (
        gather_episodes(episodes[mine]),
        gather_episodes(silent[mine]),
        distributed.average_metrics(metrics[mine]),
        distributed.any_process(False, mine == 1, True),
        [distributed.alike(text) for text in ("same", str(mine))],
        [
            distributed.from_first(each)
            for each in (lambda: b"", lambda: b"x" * (999 // (1 - mine)))
        ],
    )


def test_what_is_exchanged(pair):
    for first, second, metrics, flags, alike, data in pair(exchange):
        assert first == Episodes([1.5, -2.0, 0.25], [3, 4, 5], [True, False, True], [])
        assert second == Episodes([7.0, 8.0, 9.0], [1, 2, 3], [None] * 3, [])
        assert metrics == {"a": 1.5, "b": 5.0}
        assert flags == [False, True, True]
        assert alike == [True, False]
        assert data == [b"", b"x" * 999]


def failing_first():
    def fail():
        raise OSError("no room left")

    try:
        distributed.from_first(fail)
    except (OSError, ConfigError) as error:
        return type(error).__name__, str(error)


def test_nobody_waits_for_a_first_process_that_failed(pair):
    first, second = pair(failing_first)
    assert first == ("OSError", "no room left")
    assert second[0] == "ConfigError"


def test_one_process_computes_as_if_there_were_no_others():
    x = torch.randn(3, 5)
    mean, std = distributed.start_mean_and_std(x)()
    assert torch.equal(mean, x.mean())
    assert torch.equal(std, x.std())
    layer = nn.Linear(2, 2)
    layer(x[:, :2]).sum().backward()
    gradient = layer.weight.grad
    distributed.average_gradients(layer.parameters())
    assert layer.weight.grad is gradient
    assert distributed.average(x[0, 0]).item() == x[0, 0]
    assert distributed.gather_rows(x) is x
    assert distributed.from_first(lambda: b"data") == b"data"
    assert distributed.alike("anything")
    distributed.join(torch.device("cpu"))
    distributed.leave()
    assert (distributed.num_processes(), distributed.rank()) == (1, 0)


def test_fewer_gpus_than_processes_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cuda = torch.device("cuda")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert distributed.own_device(cuda) == cuda
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert distributed.own_device(cuda) == torch.device("cuda", 1)
    assert distributed.own_device(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="start at most 2, or use cpu"):
        distributed.own_device(cuda)


def test_half_a_launch_is_a_mistake_of_the_user(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="WORLD_SIZE is 2; start by torchrun"):
        distributed.join(torch.device("cpu"))
