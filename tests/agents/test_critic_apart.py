"""A critic with a trunk of its own: what it remembers, and what it alone sees."""

import numpy as np
import pytest
import torch
from command_line import InterruptAt, run_command
from gymnasium import spaces
from keyed_env import ID, PARTS, keyed_env
from kill_and_resume import checkpoint_fingerprint, metrics_rows
from pydantic import ValidationError
from scheduled_env import EPISODES, ScheduledEnv, small_policy

from agents.critic import CriticConfig
from agents.encoders import EncoderConfig
from agents.policy import PolicyInput
from agents.ppo import PPOConfig, make_optimizer, ppo_update
from agents.rollout import EpisodeCounter, collect, start
from agents.saving import actor_of, export_policy, load_policy
from agents.sb3 import SB3Policy
from fwrl import use_kernel
from fwrl.config import ConfigError
from fwrl.run.learner_log import learner_metrics
from fwrl.state import map_tensors, tensors_in

SPACE = spaces.Dict([
    ("seen", spaces.Box(-1e6, 1e6, (3,))),
    ("action_mask", spaces.MultiBinary(3)),
    ("state", spaces.Box(-1e6, 1e6, (2,))),
    ("symbol", spaces.Discrete(99, start=-1)),
])  # fmt: skip
HIDDEN = ("state", "symbol")
NORMALISED = EncoderConfig(frame_stack=2, normalise_observations=True, time_frequencies=1)


def keyed(rows):
    mask = np.stack([np.ones(len(rows)), rows[:, 2] % 2, np.ones(len(rows))], 1)
    state = np.sin(rows[:, :2] + rows[:, 2:])
    symbol = (3 * rows[:, 0] + rows[:, 1]).astype(np.int64)
    return {
        "seen": rows / 3,
        "action_mask": mask.astype(np.int8),
        "state": state.astype(np.float32),
        "symbol": symbol,
    }


KEYED = {"nest": keyed, "space": SPACE}
RANGES = {"actions": spaces.Box(-2, 5, (2,))}
# name -> the actor's memory, the environment, the critic, other parts of the policy
COMBINATIONS = {
    "own": ("fast_weight", {}, CriticConfig(head="linear", memory="own"), {}),
    "own, mixed": ("gru below", {}, CriticConfig(head="linear", memory="own"), {}),
    "none, mixed": ("three", {}, CriticConfig(memory="none"), {}),
    "own, ranges": ("gru", RANGES, CriticConfig(head="two_hot", memory="own"), {}),
    "own, bfloat16": ("lstm", {}, CriticConfig(memory="own"), {"precision": "bfloat16"}),
    "none": ("fast_weight", {}, CriticConfig(head="two_hot", memory="none"), {}),
    "none, frames": ("gru", KEYED, CriticConfig(memory="none"), {"encoder": NORMALISED}),
    "own, hidden": (
        "fast_weight",
        KEYED,
        CriticConfig(head="popart", memory="own", observation=HIDDEN),
        {},
    ),
    "own, hidden, frames": (
        "fast_weight",
        KEYED,
        CriticConfig(head="two_hot", memory="own", observation=HIDDEN[:1]),
        {"encoder": NORMALISED},
    ),
    "none, hidden": (
        "gru",
        KEYED,
        CriticConfig(head="linear", memory="none", observation=HIDDEN),
        {"encoder": EncoderConfig(normalise_observations=True, hidden=(12,))},
    ),
}
PRIVILEGED = [name for name, (*_, critic, _) in COMBINATIONS.items() if critic.observation]
every_combination = pytest.mark.parametrize("name", COMBINATIONS)
every_privileged = pytest.mark.parametrize("name", PRIVILEGED)


def build(name, **encoder):
    kind, env, critic, parts = COMBINATIONS[name]
    changed = parts.get("encoder", EncoderConfig()).model_copy(update=encoder)
    torch.manual_seed(0)
    envs = ScheduledEnv(EPISODES, **env)
    return envs, small_policy(envs, kind, 5.0, critic=critic, **parts | {"encoder": changed})


def roll_out(envs, policy, exact=False):
    """The second of two rollouts, in pieces, after one update on the first."""
    carry, counter = start(envs, policy, seed=0), EpisodeCounter(envs.num_envs)
    rollout, carry, _ = collect(envs, policy, carry, 12, 0.9, 0.8, counter, 4, exact)
    config = PPOConfig(minibatches=2, epochs=1, learning_rate=1e-3)
    metrics = ppo_update(policy, make_optimizer(policy, config), rollout, config)
    assert metrics["health/skipped_updates"] == 0
    rollout, carry, _ = collect(envs, policy, carry, 12, 0.9, 0.8, counter, 4, exact)
    assert rollout.inputs.starts[:, 1:].any()
    return rollout


@pytest.mark.unchecked
@every_combination
@pytest.mark.parametrize("exact", [False, True])
def test_a_replay_repeats_actions_and_values(name, exact):
    envs, policy = build(name)
    tolerance = {"atol": 0.0 if exact else 1e-4, "rtol": 0.0 if exact else 1e-4}
    if exact and "ranges" in name:
        tolerance = {"atol": 1e-6, "rtol": 0.0}
    if not exact and policy.config.precision == "bfloat16":
        tolerance = {"atol": 2e-2, "rtol": 2e-2}
    with use_kernel("reference" if exact else "chunked"):
        rollout = roll_out(envs, policy, exact)
        for batch in rollout.minibatches(3):
            output, _ = policy.unroll(batch.inputs, batch.memory, exact)
            ratio = (output.action.log_prob(batch.action) - batch.log_prob).exp()
            torch.testing.assert_close(ratio, torch.ones_like(ratio), **tolerance)
            torch.testing.assert_close(output.value, batch.value, **tolerance)


@every_combination
def test_neither_loss_reaches_what_is_the_others(name):
    envs, policy = build(name)
    rollout = roll_out(envs, policy)
    # heads of classes begin at nothing, which lets nothing through
    policy.value.weight.data.normal_()
    output, _ = policy.unroll(rollout.inputs, rollout.memory)
    names, parameters = zip(*policy.named_parameters(), strict=True)

    def reached(outcome):
        found = torch.autograd.grad(outcome, parameters, retain_graph=True, allow_unused=True)
        return {n for n, gradient in zip(names, found, strict=True) if gradient is not None}

    values = reached(output.value.sum())
    actions = reached(output.action.log_prob(rollout.action).sum())
    assert {n.split(".")[0] for n in values} == {"critic_trunk", "value"}
    assert not values & actions
    assert values | actions | {"head.log_std"} >= set(names)


@every_combination
def test_the_critic_remembers_what_it_is_said_to(name):
    envs, policy = build(name, previous_action=False, previous_reward=False, frame_stack=1)
    rollout = roll_out(envs, policy)
    policy.value.weight.data.normal_()
    inputs = map_tensors(lambda leaf: leaf[:, :3], rollout.inputs)
    inputs = inputs._replace(elapsed=torch.arange(3).expand_as(inputs.elapsed).contiguous())
    state = policy.initial_state(len(inputs.elapsed))

    def shifted(leaf):
        return torch.cat([leaf[:, :1].roll(3, 0), leaf[:, 1:]], dim=1)

    other = inputs._replace(observation=map_tensors(shifted, inputs.observation))
    one, two = (policy.unroll(each, state)[0].value[:, -1] for each in (inputs, other))
    assert torch.equal(one, two) == (policy.config.critic.memory == "none")


@every_privileged
def test_actions_do_not_depend_on_what_the_critic_alone_sees(name):
    envs, policy = build(name)
    rollout = roll_out(envs, policy)
    policy.value.weight.data.normal_()
    observation = dict(rollout.inputs.observation)
    for key in policy.config.critic.observation:
        observation[key] = observation[key].flip(0)
    other = rollout.inputs._replace(observation=observation)
    before, after = (policy.unroll(each, rollout.memory)[0] for each in (rollout.inputs, other))
    for one, two in zip(tensors_in(before.action), tensors_in(after.action), strict=True):
        assert torch.equal(one, two)
    assert (before.value - after.value).abs().max() > 1e-3
    # not even where it is no number
    observation["state"] = torch.full_like(observation["state"], torch.nan)
    output, _ = policy.unroll(rollout.inputs._replace(observation=observation), rollout.memory)
    assert all(leaf.isfinite().all() for leaf in tensors_in(output.action))


@every_combination
def test_an_update_trains_both_and_their_normalisers(name):
    envs, policy = build(name)
    policy.value.weight.data.normal_(0.0, 0.1)
    before = {key: leaf.clone() for key, leaf in policy.state_dict().items()}
    roll_out(envs, policy)
    unchanged = {key for key, leaf in policy.state_dict().items() if torch.equal(leaf, before[key])}
    assert not unchanged
    if policy.config.encoder.normalise_observations:
        for encoder in (policy.encoder, policy.critic_trunk["encoder"]):
            moments = [m for n, m in encoder.named_buffers() if n.endswith("moments.mean")]
            assert moments
            assert all(m.any() for m in moments)


@every_privileged
def test_an_exported_policy_needs_its_critics_keys_no_more(name, tmp_path):
    envs, policy = build(name, previous_reward=False)
    rollout = roll_out(envs, policy)
    path = tmp_path / "a.safetensors"
    drawn = torch.get_rng_state()
    export_policy(path, policy, {})
    assert torch.equal(torch.get_rng_state(), drawn)
    loaded = load_policy(path)
    hidden = policy.config.critic.observation
    assert loaded.observation_space.keys() == SPACE.keys() - set(hidden)
    assert not [n for n in loaded.state_dict() if n.startswith(("critic", "value"))]
    assert loaded.config.critic == policy.config.critic
    assert actor_of(loaded) is loaded
    models, states = [SB3Policy(policy), SB3Policy(loaded)], [None, None]
    memory, taken = policy.initial_state(1), policy.initial_action(1)
    for t in range(4):
        seen = map_tensors(lambda leaf, t=t: leaf[:1, t], rollout.inputs.observation)
        elapsed = torch.tensor([t % 2])
        output, memory = policy.step(PolicyInput(seen, taken, torch.zeros(1), elapsed), memory)
        taken = output.action.mode()
        arrays = {key: leaf.numpy() for key, leaf in seen.items()}
        least = {key: leaf for key, leaf in arrays.items() if key not in hidden}
        for i, given in enumerate((least, arrays)):
            action, states[i] = models[i].predict(given, states[i], elapsed.numpy() == 0, True)
            assert action == policy.head.to_environment(taken)
    output, _ = loaded.unroll(rollout.inputs, loaded.initial_state(len(rollout.value)))
    assert output.value.isnan().all()
    # the environments of the training still serve, and those without the keys
    start(envs, loaded, seed=0)
    least = {
        "nest": lambda rows: {k: v for k, v in keyed(rows).items() if k not in hidden},
        "space": loaded.observation_space,
    }
    without = ScheduledEnv(EPISODES, **least)
    start(without, loaded, seed=0)
    with pytest.raises(ConfigError, match="part 'state' is missing"):
        start(without, policy, seed=0)


def test_a_shared_policy_is_exported_whole():
    _, policy = build("own")
    assert actor_of(policy) is policy


@every_combination
def test_losses_that_share_no_trunk_have_no_ratio_there(name):
    envs, policy = build(name)
    rollout = roll_out(envs, policy)
    measured = learner_metrics(policy, rollout, PPOConfig())
    assert measured.keys() == {"rollout/large_reward_share", "rollout/observation_share"}


def refusal(observation, space=SPACE, memory="own"):
    envs = ScheduledEnv(EPISODES, space=space)
    with pytest.raises(ConfigError) as error:
        small_policy(envs, critic=CriticConfig(memory=memory, observation=observation))
    return str(error.value)


def test_mistakes_are_one_line():
    with pytest.raises(ValidationError, match="memory should be own or none"):
        CriticConfig(observation=("state",))
    assert "did you mean 'state'?" in refusal(["stat"])
    assert "observations are Discrete(5), no Dict" in refusal(["x"], spaces.Discrete(5), "none")
    assert "the actor needs 'action_mask', leave it out" in refusal(["state", "action_mask"])
    assert "should leave a key to the actor" in refusal(["state", "symbol", "seen"])


# Rollouts of a training.
ITERATIONS = 20


class HiddenBonus:
    """Rewards are a bonus that only ``state`` tells, and a small one for the first of 5 actions."""

    num_envs, render_fps = 16, 30.0
    action_space = spaces.Discrete(5)

    def __init__(self, *keys):
        self.observation_space = spaces.Dict({key: spaces.Box(-9, 9, (1,)) for key in keys})

    def reset(self, seed=None):
        self.generator, self.time = np.random.default_rng(seed), 0
        return self.observe()

    def observe(self):
        state = self.generator.standard_normal((self.num_envs, 1)).astype(np.float32)
        self.bonus = 10 * state[:, 0]
        return {"seen": np.ones_like(state), "state": state}

    def step(self, action):
        reward = self.bonus + (action == 0)
        self.time += 1
        ended = np.full(self.num_envs, self.time % 8 == 0)
        never, observation = np.zeros_like(ended), self.observe()
        return Step(observation, reward, ended, never, observation if ended[0] else None)


class Step:
    success, faults, vacant = None, {}, None

    def __init__(self, *parts):
        self.observation, self.reward, self.terminated, self.truncated = parts[:4]
        self.final_observation = parts[4]


def learn_the_bonus(seed, *keys, **critic):
    """The critic's explained variance, and how often the right action was taken, at the end."""
    torch.manual_seed(seed)
    envs = HiddenBonus("seen", *keys)
    encoder, critic = EncoderConfig(previous_reward=False), CriticConfig(memory="none", **critic)
    policy = small_policy(envs, "none", 1.0, critic=critic, encoder=encoder)
    config = PPOConfig(minibatches=2, learning_rate=3e-3, entropy_weight=0.0)
    optimizer, counter = make_optimizer(policy, config), EpisodeCounter(envs.num_envs)
    carry = start(envs, policy, seed)
    for _ in range(ITERATIONS):
        rollout, carry, _ = collect(envs, policy, carry, 16, 0.5, 0.5, counter)
        metrics = ppo_update(policy, optimizer, rollout, config)
    return metrics["train/explained_variance"], (rollout.action == 0).float().mean().item()


@pytest.mark.slow
@pytest.mark.learns
def test_what_only_the_critic_sees_helps_to_learn():
    seeds, hidden = range(3), {"observation": ("state",)}
    blind, slow = np.mean([learn_the_bonus(seed) for seed in seeds], 0)
    told, fast = np.mean([learn_the_bonus(seed, "state", **hidden) for seed in seeds], 0)
    assert blind < 0.1
    assert told > 0.7
    assert fast > slow + 0.1


RUN = f"""
env: {{id: {ID}, num_envs: 4}}
core: {{kind: gru}}
stack: {{width: 16}}
critic: {{memory: own, observation: [lidar, inner]}}
ppo: {{num_steps: 16, minibatches: 2, epochs: 2}}
evaluation: {{every_steps: 128, episodes: 2, num_envs: 2}}
total_steps: 384
"""


@pytest.mark.unchecked
def test_a_run_with_a_privileged_critic(tmp_path, capsys):
    config, whole, cut = tmp_path / "c.yaml", tmp_path / "whole", tmp_path / "cut"
    config.write_text(RUN)
    with keyed_env():
        with InterruptAt(None) as points:
            assert run_command("train", config, "--run-dir", whole) == 0
        assert "its critic also reads lidar, inner" in capsys.readouterr().out
        with InterruptAt(points.checks // 2):
            assert run_command("train", config, "--run-dir", cut) == 75
        assert run_command("train", config, "--run-dir", cut) == 0
        assert checkpoint_fingerprint(cut) == checkpoint_fingerprint(whole)
        assert metrics_rows(cut) == metrics_rows(whole)
        assert run_command("inspect", whole) == 0
        file = tmp_path / "policy.safetensors"
        assert run_command("export", whole, file) == 0
        assert run_command("evaluate", file, "--episodes", 2) == 0
    least = {key: part for key, part in PARTS.items() if key not in ("lidar", "inner")}
    with keyed_env(least):
        for path in (file, whole):
            assert run_command("evaluate", path, "--episodes", 2) == 0
        assert run_command("train", config, "--run-dir", whole, "total_steps=512") == 2
    assert "lidar" in capsys.readouterr().err
