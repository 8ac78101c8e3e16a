"""PettingZoo's parallel environments: a slot and an episode for each agent that comes and goes."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from parallel_envs import LIVES, Comings, Cue, registered
from pettingzoo import ParallelEnv, parallel_registry, register
from restored_envs import assert_restorable

from agents.evaluation import evaluate, summarise
from agents.inspection import look_into, play_episodes
from agents.policy import PolicyConfig
from agents.ppo import ppo_update
from agents.rollout import EpisodeCounter, collect, start
from agents.saving import new_policy
from envs import EnvConfigError, PettingZooConfig, make_envs
from envs.check.conformance import check
from envs.vector import VectorEnv
from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.run.build import prepare
from fwrl.run.config import RunConfig

NAMES = list(LIVES)


@pytest.fixture(autouse=True)
def _registered():
    with registered():
        yield


def make(env_id="comings-v0", num_envs=2, **keys):
    return make_envs(PettingZooConfig(id=env_id, **keys), num_envs)


def played(envs, num_steps, action=1, seed=5):
    """The steps after a reset, with one action for everybody."""
    envs.reset(seed)
    return [envs.step(np.full(envs.num_envs, action)) for _ in range(num_steps)]


def test_every_agent_of_every_copy_has_a_slot():
    envs = make(num_envs=4)
    assert isinstance(envs, VectorEnv)
    assert (envs.num_envs, envs.num_agents, envs.render_fps) == (12, 3, 7)
    assert envs.action_space == spaces.Discrete(4)
    first = envs.reset(5)
    assert first.shape == (12, 3)
    # cid comes later
    assert first[:, 0].tolist() == [0, 1, 0] * 4
    assert (first[2::3] == 0).all()
    # copies are seeded apart, as slots of other environments are
    assert len(set(first[0::3, 2].tolist())) == 4
    single = make(num_envs=1)
    np.testing.assert_array_equal(single.reset(6), first[3:6])


def test_slots_follow_their_agents():
    steps = played(make(), 9)
    alone = Comings()
    observations, _ = alone.reset(seed=5)
    for time, step in enumerate(steps, 1):
        acting = alone.agents
        observations, rewards, terminations, truncations, _ = alone.step(dict.fromkeys(acting, 1))
        for row, name in enumerate(NAMES):
            acted = name in acting
            assert step.vacant is None or step.vacant[row] != acted
            assert step.reward[row] == rewards.get(name, 0)
            arrives = not acted and name in alone.agents
            assert step.terminated[row] == (terminations.get(name, False) or arrives)
            assert step.truncated[row] == truncations.get(name, False)
            if name in alone.agents:
                np.testing.assert_array_equal(step.observation[row], observations[name])
            elif time < 9:
                assert (step.observation[row] == 0).all()
            if step.truncated[row] or terminations.get(name):
                np.testing.assert_array_equal(step.final_observation[row], observations[name])
    # the next episode of the copy has begun
    assert alone.agents == []
    assert steps[-1].observation[:2, 1].tolist() == [0, 0]
    ends = [(np.flatnonzero(s.terminated[:3]), np.flatnonzero(s.truncated[:3])) for s in steps]
    assert [(t, [*a], [*b]) for t, (a, b) in enumerate(ends, 1) if len(a) + len(b)] == [
        *[(2, [0], []), (3, [2], []), (5, [0], []), (6, [], [2]), (9, [0], [1])]
    ]


def test_only_lives_are_episodes_and_a_memory_begins_with_each():
    envs = make(num_envs=1)
    torch.manual_seed(0)
    policy = new_policy(
        envs.observation_space, envs.action_space, PolicyConfig(core=FastWeightConfig(heads=1))
    )
    carry, counter = start(envs, policy, 5), EpisodeCounter(envs.num_envs)
    rollout, _, episodes = collect(envs, policy, carry, 18, 0.9, 0.9, counter)
    assert sorted(episodes.lengths) == [2, 2, 3, 3, 4, 4, 9, 9]
    ages = rollout.inputs.elapsed[:, :9].tolist()
    # those of ann, vacant, ann again; bob; vacant, cid, vacant
    assert ages == [[0, 1, 0, 1, 2, 0, 1, 2, 3], [*range(9)], [0, 1, 2, 0, 1, 2, 0, 1, 2]]
    # whose memory is empty: what is read equals what a policy reads that has seen nothing
    fresh, _ = policy.step(
        rollout.inputs._replace(
            **{
                name: getattr(rollout.inputs, name)[:, 5]
                for name in ("observation", "previous_action", "previous_reward", "elapsed")
            }
        ),
        policy.initial_state(3),
    )
    torch.testing.assert_close(rollout.value[0, 5], fresh.value[0])


def test_rows_that_are_vacant_earn_nothing_and_their_actions_do_nothing():
    one, other = make(num_envs=1), make(num_envs=1)
    one.reset(3)
    other.reset(3)
    generator = np.random.default_rng(0)
    for _ in range(40):
        action = generator.integers(4, size=3)
        step = one.step(action)
        vacant = np.zeros(3, bool) if step.vacant is None else step.vacant
        same = other.step(np.where(vacant, 3 - action, action))
        np.testing.assert_array_equal(step.observation, same.observation)
        np.testing.assert_array_equal(step.reward, same.reward)
        assert (step.reward[vacant] == 0).all()


def test_a_time_limit_truncates_who_is_there():
    steps = played(make(num_envs=1, max_episode_steps=4), 8)
    for step in (steps[3], steps[7]):
        # ann has left, and is there again when the next episode begins
        assert step.truncated.tolist() == [False, True, True]
        assert step.terminated.tolist() == [True, False, False]
        assert step.vacant.tolist() == [True, False, False]
        assert step.final_observation[1:, 1].tolist() == [4, 4]
        assert step.observation[:2, 1].tolist() == [0, 0]
    assert not any(step.truncated.any() for step in steps[:3])


@pytest.mark.parametrize("masked", ["info", "observation"])
def test_masks_are_the_agents_own(masked):
    keys = {"action_mask": True} if masked == "info" else {}
    envs = make(num_envs=1, options={"masked": masked}, **keys)
    assert envs.observation_space["action_mask"] == spaces.MultiBinary(4)
    first = envs.reset(0)
    # who is not there may do anything
    expected = [[1, 0, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]]
    assert first["action_mask"].tolist() == expected
    assert played(envs, 3)[-1].observation["action_mask"].tolist() == [
        *[[1, 1, 1, 1], [1, 0, 1, 0], [1, 0, 1, 0]]
    ]


@pytest.mark.parametrize("cut", [0, 31])
@pytest.mark.parametrize("keys", [{}, {"max_episode_steps": 7}], ids=str)
def test_a_continued_run_steps_as_an_undisturbed_one(cut, keys):
    envs, *others = (make(num_envs=1, **keys) for _ in range(3))
    assert assert_restorable(envs, others, cut, num_steps=30) > 10


def test_an_episode_too_long_to_replay_begins_anew():
    envs, other = make(longest_replay=3), make(longest_replay=3)
    played(envs, 5)
    state = envs.state()
    assert not state["exact"].any()
    anew, observation = other.restore(state)
    assert anew.tolist() == [True] * 6
    assert observation[:2, 1].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("broken", "time", "message"),
    [
        ("raises", 5, "comings-v0: slot 0, .*: RuntimeError: a wheel came off"),
        ("vanishes", 2, "agent 'ann': left, but was not terminated or truncated"),
        ("stranger", 2, "agents: 'zoe' is not one of possible_agents"),
        ("silent", 2, "observations: have no agent 'bob', who acted"),
    ],
)
def test_a_fault_costs_the_agents_of_one_copy_their_episodes(broken, time, message):
    envs = make(num_envs=1, options={"broken": broken})
    steps = played(envs, time)
    *before, last = steps
    assert not any(step.faults for step in before)
    there = [True, True, False] if time == 2 else [False, True, True]
    assert sorted(last.faults) == np.flatnonzero(there).tolist()
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(next(iter(last.faults.values())))
    assert last.truncated.tolist() == there
    assert (last.reward == 0).all()
    # the last observation before the fault
    assert (last.final_observation[there, 1] == time - 1).all()
    assert (last.observation[:2, 1] == 0).all()
    episodes = collect_episodes(last)
    assert (episodes.returns, len(episodes.faults)) == ([], 2)


def collect_episodes(step):
    from agents.rollout import Episodes  # noqa: PLC0415

    episodes = Episodes.none()
    EpisodeCounter(len(step.reward)).count(step, episodes)
    return episodes


def test_success_is_told_for_each_agent():
    envs = make("cue-v0", num_envs=50)
    first = envs.reset(0)
    for _ in range(6):
        step = envs.step(np.zeros(100, np.int64))
        assert step.success is None
    step = envs.step(np.zeros(100, np.int64))
    np.testing.assert_array_equal(step.success, first == 0)
    assert step.terminated.all()
    both = (first == 0).reshape(50, 2).all(1)
    np.testing.assert_array_equal(step.reward.reshape(50, 2), np.repeat(both[:, None], 2, 1))


def test_a_picture_shows_the_first_copy():
    envs = make_envs(PettingZooConfig(id="comings-v0"), 2, render=True)
    played(envs, 3)
    assert envs.render().shape == (4, 5, 3)
    assert (envs.render() == 3).all()
    for keys in ({"render": False}, {"render": True}):
        # the one is not built to render, and the other draws nothing
        env_id = "cue-v0" if keys["render"] else "comings-v0"
        without = make_envs(PettingZooConfig(id=env_id), 1, **keys)
        without.reset(0)
        assert without.render() is None


class Unequal(Cue):
    def action_space(self, agent):
        return spaces.Discrete(2 if agent == "ann" else 3)


class Unknown(ParallelEnv):
    def __init__(self, render_mode=None):
        pass


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"id": "comming-v0"}, "no parallel environment 'comming-v0' in PettingZoo; did you mean"),
        ({"id": "classic/chess-v6"}, "no parallel environment 'classic/chess-v6'"),
        ({"id": "cue-v0", "options": {"delya": 3}}, "'cue-v0' cannot be built: TypeError: "),
        ({"id": "cue-v0", "action_mask": True}, 'cue-v0 gives no info."action_mask".; set it to'),
        ({"id": "unequal-v0"}, "agents 'ann' and 'bob' have different action spaces, Discrete.2."),
        ({"id": "unknown-v0"}, "unknown-v0: has no possible_agents; they should be known before"),
    ],
)
def test_mistakes_are_named_in_one_line(keys, message):
    register("parallel", "unequal-v0", Unequal)
    register("parallel", "unknown-v0", Unknown)
    try:
        with pytest.raises(EnvConfigError, match=message) as error:
            make_envs(PettingZooConfig(**keys), 1).reset(0)
        assert "\n" not in str(error.value)
    finally:
        del parallel_registry["unequal-v0"], parallel_registry["unknown-v0"]


def test_without_the_package_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr("envs.pettingzoo_env.find_spec", lambda name: None)
    with pytest.raises(EnvConfigError, match=r"pip install 'fwrl\[pettingzoo\]'"):
        make()


def test_the_way_of_drawing_is_no_option():
    with pytest.raises(ValueError, match="'render_mode' is not an option"):
        PettingZooConfig(id="cue-v0", options={"render_mode": "human"})


def test_check_env_finds_no_fault():
    report = check(PettingZooConfig(id="comings-v0"), episodes=2, steps=100)
    verdicts = {finding.name: finding.verdict for finding in report.findings}
    assert report.faithful, report.findings
    assert verdicts["exact"] == verdicts["alone"] == "ok"


def test_the_first_agent_can_be_looked_into():
    envs = make_envs(PettingZooConfig(id="comings-v0"), 1, render=True)
    torch.manual_seed(0)
    policy = new_policy(envs.observation_space, envs.action_space, PolicyConfig())
    played = next(play_episodes(policy, envs, seed=0, max_steps=50))
    assert (len(played.reward), len(played.frames), played.ended) == (2, 2, True)
    assert played.inputs.observation[..., :2].tolist() == [[[0, 0], [0, 1]]]
    assert len(look_into(policy, played.inputs)) == policy.config.stack.layers


@pytest.mark.slow
@pytest.mark.learns
@pytest.mark.parametrize("rivals", [False, True])
def test_one_policy_with_a_memory_for_each_agent_learns_what_one_without_cannot(rivals):
    reached = {kind: successes(rivals, kind) for kind in ("fast_weight", "none")}
    # measured: 1 and 0.53, together and as rivals
    assert reached["fast_weight"] > 0.95
    assert reached["none"] < 0.62


def successes(rivals, kind):
    """The share of agents that are right after 25,000 steps."""
    env = PettingZooConfig(id="cue-v0", options={"rivals": rivals, "delay": 3}, num_envs=32)
    config = RunConfig.model_validate(
        {
            "env": env.model_dump(),
            "core": {"kind": kind},
            "stack": {"layers": 1},
            "ppo": {"num_steps": 16, "learning_rate": 0.002, "discount": 0.9},
            "total_steps": 25_000,
        }
    )
    envs, _, learner = prepare(config)
    carry, counter = start(envs, learner.policy, seed=1), EpisodeCounter(envs.num_envs)
    for _ in range(config.total_steps // (16 * envs.num_envs)):
        rollout, carry, _ = collect(envs, learner.policy, carry, 16, 0.9, 0.95, counter)
        ppo_update(learner.policy, learner.optimizer, rollout, config.ppo, 1.0)
    played = evaluate(learner.policy, envs, 512, seed=1_000_000)
    return summarise(played).success_rate
