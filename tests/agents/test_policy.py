import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduled_env import EPISODES, ScheduledEnv

from agents.encoders import EncoderConfig
from agents.policy import PolicyConfig, PolicyInput, RecurrentPolicy, RewardConfig
from agents.ppo import PPOConfig, ppo_loss, schedule
from agents.rollout import EpisodeCounter, collect, start
from fwrl import CORES, StackConfig, use_kernel
from fwrl.config import ConfigError
from fwrl.state import map_tensors, tensors_in

BOX = spaces.Box(-1, 1, (3,))
MASKED = spaces.Dict(action_mask=spaces.MultiBinary(5), x=BOX)
ACTIONS = spaces.MultiDiscrete([2, 3])


def make_policy(kind="fast_weight", observation_space=BOX, action_space=ACTIONS, **parts):
    torch.manual_seed(0)
    config = PolicyConfig(core=CORES[kind](), stack=StackConfig(width=16, layers=2), **parts)
    policy = RecurrentPolicy(observation_space, action_space, config)
    with torch.no_grad():
        for parameter in policy.head.parameters():
            parameter.normal_()
    return policy


def make_inputs(elapsed, seed=0):
    """Random inputs of ``make_policy``'s default spaces."""
    generator = torch.Generator().manual_seed(seed)
    shape = elapsed.shape
    actions = [torch.randint(size, shape, generator=generator) for size in (2, 3)]
    return PolicyInput(
        torch.randn(*shape, 3, generator=generator),
        torch.stack(actions, -1),
        torch.randn(shape, generator=generator),
        elapsed,
    )


def at(inputs, t):
    return map_tensors(lambda leaf: leaf[:, t], inputs)


def steps(policy, inputs, state, exact=False):
    outputs = []
    for t in range(inputs.elapsed.shape[1]):
        output, state = policy.step(at(inputs, t), state, exact)
        outputs.append(output)
    return map_tensors(lambda *leaves: torch.stack(leaves, 1), *outputs), state


@torch.no_grad()
def some_state(policy, count):
    """One that the policy has come to: not any numbers are a state, as memories count times."""
    torch.manual_seed(1)
    inputs = make_inputs(torch.arange(7).expand(count, -1))
    return policy.unroll(inputs, policy.initial_state(count))[1]


@pytest.mark.parametrize("kernel", [None, "reference"])
@pytest.mark.parametrize("kind", CORES)
@given(st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=1, max_size=8))
# many streams in few examples: they take no longer than one
@pytest.mark.unchecked
@settings(max_examples=settings().max_examples // 5)
def test_unroll_equals_steps_for_any_starts(kind, kernel, elapsed):
    policy = make_policy(kind, encoder=EncoderConfig(time_frequencies=2))
    inputs = make_inputs(torch.tensor(elapsed))
    state = some_state(policy, len(elapsed))

    @torch.no_grad()
    def both(exact=False):
        return steps(policy, inputs, state, exact), policy.unroll(inputs, state, exact)

    if kernel is None:
        stepped, unrolled = both()
    else:
        with use_kernel(kernel):
            stepped, unrolled = both(exact=True)
        # as without being exact
        torch.testing.assert_close(
            unrolled[0].value, policy.unroll(inputs, state)[0].value, atol=1e-4, rtol=1e-4
        )
    tolerance = 1e-4 if kernel is None else 0.0
    for one, two in zip(tensors_in(stepped), tensors_in(unrolled), strict=True):
        torch.testing.assert_close(one, two, atol=tolerance, rtol=tolerance)


def test_an_exact_replay_has_the_same_gradients():
    policy = make_policy()
    inputs = make_inputs(torch.tensor([[0, 1, 2, 0], [3, 0, 1, 2]]))

    def gradients(exact):
        output, _ = policy.unroll(inputs, policy.initial_state(2), exact)
        policy.zero_grad()
        (output.value.sum() + output.action.entropy().sum()).backward()
        return [
            parameter.grad.clone()
            for parameter in policy.parameters()
            if parameter.grad is not None
        ]

    plain = gradients(exact=False)
    with use_kernel("reference"):
        exact = gradients(exact=True)
    for one, two in zip(plain, exact, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-3)


def test_a_gaussian_policy_keeps_its_form_row_by_row():
    policy = make_policy(action_space=spaces.Box(-1, 1, (2,)))
    inputs = PolicyInput(
        torch.randn(3, 4, 3), torch.randn(3, 4, 2), torch.randn(3, 4), torch.arange(4).expand(3, 4)
    )
    output, _ = policy.unroll(inputs, policy.initial_state(3))
    exact, _ = policy.unroll(inputs, policy.initial_state(3), exact=True)
    assert type(exact.action) is type(output.action)
    torch.testing.assert_close(exact.action, output.action, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("form", ["step", "unroll"])
def test_previous_action_and_reward_are_unseen_where_an_episode_opens(form):
    policy = make_policy()
    elapsed = torch.tensor([0, 4, 0, 1])
    inputs = make_inputs(elapsed)
    changed = inputs._replace(previous_action=(inputs.previous_action + 1) % 2)
    changed = changed._replace(previous_reward=inputs.previous_reward + 100.0)
    state = some_state(policy, 4)

    def value(inputs):
        if form == "step":
            return policy.step(inputs, state)[0].value
        return policy.unroll(map_tensors(lambda leaf: leaf.unsqueeze(1), inputs), state)[0].value[
            :, 0
        ]

    same = value(inputs) == value(changed)
    assert torch.equal(same, elapsed == 0)


@pytest.mark.parametrize("form", ["step", "unroll"])
def test_the_past_is_unseen_where_an_episode_opens_even_if_it_is_not_a_number(form):
    policy = make_policy()
    inputs = make_inputs(torch.tensor([[0, 1], [5, 6]]))
    spoilt = map_tensors(lambda leaf: torch.full_like(leaf, torch.nan), policy.initial_state(2))
    run = policy.unroll if form == "unroll" else lambda *arguments: steps(policy, *arguments)
    with torch.no_grad():
        value, clean = (run(inputs, state)[0].value for state in (spoilt, policy.initial_state(2)))
    torch.testing.assert_close(value[0], clean[0])
    assert value[1].isnan().all()


def test_each_part_of_the_input_can_be_switched_off():
    inputs = make_inputs(torch.tensor([3, 4]))
    parts = {
        "previous_action": inputs._replace(previous_action=(inputs.previous_action + 1) % 2),
        "previous_reward": inputs._replace(previous_reward=inputs.previous_reward + 1.0),
        "time_frequencies": inputs._replace(elapsed=inputs.elapsed + 1),
    }
    for on in (EncoderConfig(time_frequencies=4), EncoderConfig(time_frequencies=0)):
        for name, changed in parts.items():
            for config in (
                on,
                on.model_copy(update={name: False if name != "time_frequencies" else 0}),
            ):
                policy = make_policy(encoder=config)
                difference = policy.encode(inputs) != policy.encode(changed)
                assert bool(difference.any()) is bool(getattr(config, name)), (name, config)


def test_bfloat16_is_the_encoders_alone():
    policy = make_policy(
        observation_space=spaces.Dict(i=spaces.Box(0, 255, (40, 40, 3), "uint8"), x=BOX),
        encoder=EncoderConfig(bfloat16=True, image_features=16),
    )
    exact = make_policy(
        observation_space=policy.observation_space, encoder=EncoderConfig(image_features=16)
    )
    inputs = make_inputs(torch.tensor([[0, 1, 2]]))
    pixels = torch.randint(0, 256, (1, 3, 40, 40, 3), dtype=torch.uint8)
    inputs = inputs._replace(observation={"i": pixels, "x": inputs.observation})
    seen = []
    policy.encoder.parts[0].network[0][0].register_forward_hook(
        lambda *call: seen.append(call[2].dtype)
    )
    for output, state in (
        policy.unroll(inputs, policy.initial_state(1)),
        policy.step(at(inputs, 0), policy.initial_state(1)),
    ):
        assert {leaf.dtype for leaf in tensors_in((output, state))} == {torch.float32}
    assert seen == [torch.bfloat16] * 2
    wanted, _ = exact.unroll(inputs, exact.initial_state(1))
    found, _ = policy.unroll(inputs, policy.initial_state(1))
    torch.testing.assert_close(found.value, wanted.value, atol=0.1, rtol=0.1)
    assert not torch.equal(found.value, wanted.value)


@pytest.mark.parametrize("kind", CORES)
def test_masked_actions_are_impossible_in_step_and_unroll(kind):
    policy = make_policy(kind, observation_space=MASKED)
    elapsed = torch.tensor([[0, 1, 2, 0, 1, 2]]).expand(4, -1)
    inputs = make_inputs(elapsed)
    mask = torch.randint(0, 2, (4, 6, 5), dtype=torch.int8)
    mask[..., 0] |= ~mask[..., :2].any(-1)
    mask[..., 2] |= ~mask[..., 2:].any(-1)
    inputs = inputs._replace(observation={"action_mask": mask, "x": inputs.observation})
    unrolled, _ = policy.unroll(inputs, policy.initial_state(4))
    stepped, _ = steps(policy, inputs, policy.initial_state(4))
    for output in (unrolled, stepped):
        for _ in range(5):
            assert (policy.head.features(output.action.sample()) <= mask).all()
    action = stepped.action.sample()
    torch.testing.assert_close(
        unrolled.action.log_prob(action), stepped.action.log_prob(action), atol=1e-4, rtol=1e-4
    )
    (unrolled.action.log_prob(action) + unrolled.action.entropy()).sum().backward()
    gradients = [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ConfigError, match="action_mask"):
        make_policy(observation_space=MASKED, action_space=spaces.Discrete(4))


def test_learned_rewards_are_scaled_then_clipped():
    rewards = torch.tensor([-4.0, 0.5, 4.0])
    assert make_policy().learned_reward(rewards).tolist() == [-4.0, 0.5, 4.0]
    policy = make_policy(reward=RewardConfig(scale=0.5, clip=1.0))
    assert policy.learned_reward(rewards).tolist() == [-1.0, 0.25, 1.0]


def test_normalisers_are_saved_with_the_policy():
    parts = {
        "encoder": EncoderConfig(normalise_observations=True),
        "reward": RewardConfig(normalise=True),
    }
    policy = make_policy(**parts)
    inputs = make_inputs(torch.tensor([[0, 1, 2]]))
    policy.update_normalisers(3.0 * inputs.observation + 1.0, torch.randn(1, 3))
    other = make_policy(**parts)
    fresh = other.unroll(inputs, other.initial_state(1))[0].value
    other.load_state_dict(policy.state_dict())
    saved = policy.unroll(inputs, policy.initial_state(1))[0].value
    assert torch.equal(other.unroll(inputs, other.initial_state(1))[0].value, saved)
    assert not torch.equal(fresh, saved)
    assert other.return_moments.count == 3
    assert torch.equal(other.return_moments.variance, policy.return_moments.variance)


def test_initial_actions_and_states_fit():
    for space, dtype in ((ACTIONS, torch.int64), (spaces.Box(-1, 1, (2,)), torch.float32)):
        policy = make_policy(action_space=space)
        action = policy.initial_action(5)
        assert action.shape == (5, 2)
        assert action.dtype == dtype
        assert not action.any()


def test_a_learned_initial_state_is_learned_through_a_rollout():
    envs = ScheduledEnv(EPISODES)
    core = CORES["fast_weight"](learned_initial_state=True)
    config = PolicyConfig(core=core, stack=StackConfig(width=16))
    policy = RecurrentPolicy(envs.observation_space, envs.action_space, config)
    rollout, _, _ = collect(envs, policy, start(envs, policy, 0), 8, 0.9, 0.8, EpisodeCounter(4))
    for _ in range(2):
        loss, _ = ppo_loss(policy, rollout, PPOConfig(), schedule(PPOConfig(), 1.0))
        loss.backward()
    starts = [parameter for name, parameter in policy.named_parameters() if name.endswith("start")]
    assert starts
    assert all((parameter.grad != 0).any() for parameter in starts)


@pytest.mark.parametrize(("width", "bare", "mapped"), [(3, True, 0), (4, True, 16), (3, False, 12)])
def test_only_a_bare_memory_of_their_width_reads_the_features_themselves(width, bare, mapped):
    encoder = EncoderConfig(previous_action=False, previous_reward=False)
    stack = StackConfig(width=width, bare=bare)
    policy = RecurrentPolicy(
        BOX, ACTIONS, PolicyConfig(core=CORES["lstm"](), stack=stack, encoder=encoder)
    )
    inputs = make_inputs(torch.zeros(2, 1, dtype=torch.int64))
    assert sum(parameter.numel() for parameter in policy.project.parameters()) == mapped
    assert torch.equal(policy.encode(inputs), inputs.observation) is (mapped == 0)
