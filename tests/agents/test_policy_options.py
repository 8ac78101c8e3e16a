"""The contracts that every option of a policy keeps: replay, steps, export, predictions."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scheduled_env import EPISODES, ScheduledEnv, small_policy
from torch import nn

from agents.actions import ActionConfig
from agents.encoders import EncoderConfig, make_encoder, reading, register_encoder
from agents.frames import stack_frames
from agents.policy import PolicyInput
from agents.rollout import EpisodeCounter, collect, start
from agents.saving import export_policy, load_policy
from agents.sb3 import SB3Policy
from fwrl import use_kernel
from fwrl.config import ConfigError
from fwrl.stack import StackConfig
from fwrl.state import map_tensors, tensors_in


class Squares(nn.Module):
    """An encoder of one's own: the squares of all numbers."""

    def __init__(self, space):
        super().__init__()
        self.axes = len(space.shape)
        self.linear = nn.Linear(int(np.prod(space.shape)), 5)
        self.output_size = 5

    def forward(self, observation):
        return self.linear(observation.flatten(observation.dim() - self.axes).square() / 100)


register_encoder("squares", Squares)

NESTED = spaces.Dict(
    action_mask=spaces.MultiBinary(3), i=spaces.Box(0, 255, (16, 18, 2), np.uint8),
    n=spaces.Discrete(99, start=-1), x=spaces.Box(-1e6, 1e6, (3,)),
)  # fmt: skip


def nested(rows):
    count = rows[:, 0].astype(np.int64)
    pictures = rows.sum(1).astype(np.uint8)[:, None, None, None]
    return {
        "action_mask": np.stack([np.ones(len(rows)), rows[:, 2] % 2, np.ones(len(rows))], 1).astype(
            np.int8
        ),
        "i": pictures + np.arange(2, dtype=np.uint8) + np.zeros((16, 18, 2), np.uint8),
        "n": count,
        "x": rows,
    }


# name -> memory, observation space with its nesting, parts of the policy
OPTIONS = {
    "frames": ("fast_weight", {}, {"encoder": EncoderConfig(frame_stack=3)}),
    "frames without memory": (
        "none",
        {},
        {"encoder": EncoderConfig(frame_stack=4, normalise_observations=True)},
    ),
    "frames of parts": (
        "gru",
        {"nest": nested, "space": NESTED},
        {"encoder": EncoderConfig(frame_stack=2, image_features=8)},
    ),
    "hidden": ("fast_weight", {}, {"encoder": EncoderConfig(hidden=(12, 16))}),
    "mixed": ("three", {}, {}),
    "mixed, bare": ("nothing below", {}, {"stack": StackConfig(width=16, bare=True)}),
    "registered": ("lstm", {}, {"encoder": EncoderConfig(registered="squares")}),
    "registered frames": (
        "gru",
        {},
        {"encoder": EncoderConfig(registered="squares", frame_stack=2)},
    ),
}
BOX = spaces.Box(-2, 5, (2,))
ACTIONS = {
    "correlated": ActionConfig(noise_correlation=0.9),
    "within": ActionConfig(std=0.5, std_range=(0.1, 0.9)),
    "squashed": ActionConfig(distribution="squashed"),
    "squashed, correlated": ActionConfig(distribution="squashed", noise_correlation=0.5),
    "beta": ActionConfig(distribution="beta"),
}
OPTIONS |= {
    name: ("fast_weight", {"actions": BOX}, {"action": config}) for name, config in ACTIONS.items()
}
every_option = pytest.mark.parametrize("name", OPTIONS)


def build(name, **changes):
    kind, env, parts = OPTIONS[name]
    encoder = parts.get("encoder", EncoderConfig()).model_copy(update=changes)
    parts = parts | {"encoder": encoder}
    torch.manual_seed(0)
    envs = ScheduledEnv(EPISODES, **env)
    return envs, small_policy(envs, kind, gain=5.0, **parts)


def roll_out(envs, policy, exact=False):
    """The second of two rollouts, in pieces, which begins in the middle of episodes."""
    carry, counter = start(envs, policy, seed=0), EpisodeCounter(envs.num_envs)
    for _ in range(2):
        rollout, carry, _ = collect(envs, policy, carry, 12, 0.9, 0.8, counter, 4, exact)
    assert rollout.inputs.starts[:, 1:].any()
    return rollout


@pytest.mark.unchecked
@pytest.mark.parametrize("exact", [False, True])
@every_option
def test_the_first_ratio_is_one(name, exact):
    envs, policy = build(name)
    with use_kernel("reference" if exact else "chunked"):
        rollout = roll_out(envs, policy, exact)
        for batch in rollout.minibatches(3):
            output, _ = policy.unroll(batch.inputs, batch.memory, exact)
            output = policy.after(output, batch.noise)
            ratio = (output.action.log_prob(batch.action) - batch.log_prob).exp()
            # densities: exponentials of several numbers at once round differently from single ones
            least = 1e-6 if "actions" in OPTIONS[name][1] else 0.0
            tolerance = least if exact else 1e-4
            ones = torch.ones_like(ratio)
            torch.testing.assert_close(ratio, ones, atol=tolerance, rtol=0)
            torch.testing.assert_close(output.value, batch.value, atol=tolerance, rtol=tolerance)


@every_option
def test_an_exported_policy_acts_alike(name, tmp_path):
    envs, policy = build(name)
    rollout = roll_out(envs, policy)
    export_policy(tmp_path / "a.safetensors", policy, {})
    other = load_policy(tmp_path / "a.safetensors")
    assert other.config == policy.config
    ours, theirs = (each.unroll(rollout.inputs, rollout.memory) for each in (policy, other))
    for one, two in zip(tensors_in(ours), tensors_in(theirs), strict=True):
        assert torch.equal(one, two)


@every_option
def test_predictions_carry_all_that_is_remembered(name):
    # predict is given no rewards
    envs, policy = build(name, previous_reward=False)
    rollout = roll_out(envs, policy)
    inputs = map_tensors(lambda leaf: leaf[:1], rollout.inputs)
    model, state = SB3Policy(policy), None
    elapsed, taken, outputs = [], [], []
    for t in range(4):
        seen = map_tensors(lambda leaf, t=t: leaf[:, t], inputs.observation)
        arrays = {k: v.numpy() for k, v in seen.items()} if isinstance(seen, dict) else seen.numpy()
        starts = np.array([t in (0, 2)])
        before = state
        action, state = model.predict(arrays, state, starts, deterministic=True)
        taken.append(torch.zeros_like(state.previous_action) if t in (0, 2) else before[1])
        elapsed.append(torch.tensor([t % 2]))
        outputs.append(action)
    whole = PolicyInput(
        inputs.observation, torch.stack(taken, 1), torch.zeros(1, 4), torch.stack(elapsed, 1)
    )
    output, _ = policy.unroll(whole, policy.initial_state(1))
    expected = policy.head.to_environment(output.action.mode().flatten(0, 1))
    np.testing.assert_allclose(np.concatenate(outputs), expected, atol=1e-5, rtol=1e-5)


def test_frames_are_those_of_the_episode():
    starts = torch.tensor([[False, False, True, False, False]])
    observation = torch.arange(5.0).unsqueeze(0) + 10
    stacked, after = stack_frames(torch.tensor([[8.0, 9.0]]), observation, starts)
    assert stacked[0].tolist() == [
        [8, 9, 10],
        [9, 10, 11],
        [12, 12, 12],
        [12, 12, 13],
        [12, 13, 14],
    ]
    assert after.tolist() == [[13, 14]]
    first, between = stack_frames(torch.tensor([[8.0, 9.0]]), observation[:, :3], starts[:, :3])
    rest, end = stack_frames(between, observation[:, 3:], starts[:, 3:])
    assert torch.equal(torch.cat([first, rest], 1), stacked)
    assert torch.equal(end, after)


def test_a_stack_of_vectors_is_one_long_vector():
    envs, policy = build("frames")
    rollout = roll_out(envs, policy)
    torch.manual_seed(0)
    long = ScheduledEnv(EPISODES, space=spaces.Box(-1e6, 1e6, (9,)))
    plain = small_policy(long, gain=5.0)
    plain.load_state_dict(policy.state_dict())
    stacked, _ = stack_frames(
        rollout.memory.frames, rollout.inputs.observation, rollout.inputs.starts
    )
    inputs = rollout.inputs._replace(observation=stacked.flatten(-2))
    state = rollout.memory._replace(frames=None)
    output, _ = plain.unroll(inputs, state)
    expected, _ = policy.unroll(rollout.inputs, rollout.memory)
    assert torch.equal(output.value, expected.value)


@pytest.mark.parametrize(
    ("shape", "together"),
    [((40, 44), (3, 40, 44)), ((2, 40, 44), (6, 40, 44)), ((40, 44, 2), (40, 44, 6))],
)
def test_frames_of_pictures_are_channels_of_one(shape, together):
    config = EncoderConfig(image_features=8)
    torch.manual_seed(0)
    one = make_encoder(
        spaces.Box(0, 255, shape, np.uint8), config.model_copy(update={"frame_stack": 3})
    )
    torch.manual_seed(0)
    channels = "last" if shape[-1] == 2 else "first"
    whole = make_encoder(
        spaces.Box(0, 255, together, np.uint8), config.model_copy(update={"channels": channels})
    )
    frames = torch.randint(0, 256, (5, 3, *shape), dtype=torch.uint8)
    if len(shape) == 2:
        picture = frames
    else:
        picture = torch.cat(list(frames.unbind(1)), dim=-1 if channels == "last" else 1)
    assert torch.equal(one(frames), whole(picture))
    assert reading(one).startswith("3 frames, each picture 40 x 44")


def test_mistakes_in_a_registered_encoder_are_one_line():
    space = spaces.Box(-1, 1, (3,))
    with pytest.raises(ConfigError, match=r"encoder\.registered is 'nobody'; it should be one of"):
        make_encoder(space, EncoderConfig(registered="nobody"))
    with pytest.raises(ValueError, match="another encoder is registered as 'squares'"):
        register_encoder("squares", lambda _: nn.Identity())
    register_encoder("bare", lambda _: nn.Identity())
    with pytest.raises(ConfigError, match=r"'bare': AttributeError: .*output_size"):
        make_encoder(space, EncoderConfig(registered="bare"))
    register_encoder("fails", lambda space: 1 // 0)
    with pytest.raises(ConfigError, match="'fails': ZeroDivisionError"):
        make_encoder(space, EncoderConfig(registered="fails"))


def test_hidden_layers_stand_before_the_memory():
    _, policy = build("hidden")
    assert [layer.out_features for layer in policy.dense[::2]] == [12, 16]
    assert policy.project.in_features == 16
