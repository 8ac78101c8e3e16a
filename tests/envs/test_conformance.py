"""Sound environments are called so, and every fault is found by its name."""

import numpy as np
import pytest
from contract_violations import LENGTH, registered_envs
from gymnasium import spaces

from envs import AtariConfig, EnvConfigError, GymnasiumConfig, make_envs
from envs.check.conformance import check
from envs.check.random_play import play_randomly
from envs.check.strict_wrapper import Complaints, check_declared_spaces, check_member
from envs.check.timing import Timing, workers_pay
from envs.check.trajectory import Record, first_difference, random_actions
from envs.tasks import TASKS
from envs.vector import EnvStep


@pytest.fixture(autouse=True, scope="module")
def registered():
    with registered_envs() as ids:
        yield ids


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr("envs.check.timing.SECONDS", 0.02)


def judged(env_id, steps=400, **keys):
    return check(GymnasiumConfig(id=env_id, **keys), steps=steps)


def verdicts(report):
    return {f.name: f.verdict for f in report.findings if f.verdict != "ok"}


def what(report, name):
    return next(f.what for f in report.findings if f.name == name)


SOUND = [
    *(f"fwrl/{name}-v0" for name in TASKS),
    "Sound-v0",
    "CartPole-v1",
    "Pendulum-v1",
    "FrozenLake-v1",
    "MiniGrid-MemoryS7-v0",
    "popgym-RepeatPreviousEasy-v0",
    "popgym-MineSweeperEasy-v0",
]


@pytest.mark.parametrize("env_id", SOUND)
def test_sound_environments(env_id):
    report = judged(env_id, steps=250)
    assert report.faithful
    assert report.exact is True
    assert not verdicts(report)
    assert report.seen.steps >= 100
    assert report.costs.steps_per_second > 0


def test_a_game_of_atari():
    config = AtariConfig(game="pong", max_episode_frames=320, num_envs=2, noop_max=2, num_threads=1)
    report = check(config, steps=100)
    assert (report.faithful, report.exact, verdicts(report)) == (True, True, {})
    assert report.seen.episodes >= 2
    assert report.costs.observation_bytes == 84 * 84
    assert report.replay_seconds > 0


BROKEN = {
    "BeyondItsSpace": ("space", "['time'] is int64[] 20, which is not in Discrete(20)"),
    "OfAnotherType": ("space", "['noise'] is float64[2] [0. 0.], which is not in Box"),
    "OfAnotherShape": ("runs", "observation['noise']: float32[3]; it should be float32[2]"),
    "WithoutAKey": ("space", "obs keys: ['noise', 'clock', 'time']"),
    "PaysNaN": ("finite", "after 3 actions: reward: nan, which is not finite"),
    "ShowsInfinity": ("finite", "reset: observation['noise']: inf at [1], which is not finite"),
    "WithoutAnInfo": ("types", "step 1 of an episode: info: None; it should be a dictionary"),
    "OfOldGym": ("types", "it returned 4 values, as in old Gym; step should return five"),
    "Leaves": ("runs", "after 4 actions: SystemExit: 1"),
    "OneArrayForAll": ("alone", "observation['noise'] of environment 0, after 1 steps"),
    "WritesIntoActions": ("arrays", "step 1 changed the actions"),
    "OfItsOwnChance": ("deterministic", "observation['noise'] of environment 0, before the first"),
    "OfTheGlobalChance": ("alone", "reward of environment 0, after 1 steps"),
    "Raises": ("runs", "after 5 actions: ZeroDivisionError: it broke"),
    "RaisesInReset": ("runs", "3 resets in a row failed"),
    "fwrl/WrongFinal": ("ends", "final observation of environment 0, after 51 steps"),
    "fwrl/WrongNext": ("ends", "observation of environment 0, after 51 steps"),
}
# faults that are seen beneath our layers, and by what they break there
TWICE = {
    "OfAnotherShape": {"space"},
    "BeyondItsSpace": {"runs"},
    "WithoutAnInfo": {"runs"},
    "OfOldGym": {"runs"},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_fault_is_found_by_its_name(name):
    report = judged(f"{name}-v0")
    found, words = BROKEN[name]
    assert not report.faithful
    assert verdicts(report)[found] == "broken"
    assert words in what(report, found)
    assert "\n" not in what(report, found)
    assert all(f.advice for f in report.findings if f.verdict == "broken")
    others = {n for n, verdict in verdicts(report).items() if verdict == "broken"} - {found}
    assert others == TWICE.get(name, set())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("EndsInNumbers", "step 1 of an episode: Expects `terminated` signal to be a boolean"),
        ("PaysAList", "must be a float, int"),
    ],
)
def test_an_unusual_type_that_means_a_number_is_worth_a_note(name, words):
    report = judged(f"{name}-v0")
    assert report.faithful
    assert report.exact
    assert verdicts(report) == {"types": "note"}
    assert words in what(report, "types")


def test_an_array_that_is_written_to_beneath_our_copies_is_worth_a_note():
    report = judged("OneArrayForEver-v0")
    assert report.faithful
    assert report.exact
    assert verdicts(report) == {"arrays": "note"}


@pytest.mark.parametrize("name", ["Remembers", "ShowsWhatItRemembers"])
def test_what_leaks_into_the_next_episode_is_not_exact(name):
    report = judged(f"{name}-v0")
    assert report.faithful
    assert report.exact is False
    assert verdicts(report) == {"exact": "note"}
    parts = {"Remembers": "reward", "ShowsWhatItRemembers": "observation['noise']"}
    assert parts[name] in what(report, "exact")
    steps = {"Remembers": "2 steps", "ShowsWhatItRemembers": "4 steps"}
    assert f"environment 0, after {steps[name]}" in what(report, "exact")


def test_a_state_that_is_not_all_of_it():
    report = judged("fwrl/Forgets-v0")
    assert report.faithful
    assert report.exact is False
    assert "a used instance went on otherwise: observation" in what(report, "exact")


@pytest.mark.parametrize("name", ["reward", "observation", "final_observation"])
def test_what_was_returned_and_is_written_to_later(name):
    envs = make_envs(GymnasiumConfig(id="fwrl/RepeatFirst-v0"), 2)
    honest, room = envs.step, {}

    def step(action):
        answer = honest(action)
        part = getattr(answer, name)
        if part is None:
            return answer
        buffer = room.setdefault(name, np.zeros_like(part))
        buffer[:] = part
        return answer._replace(**{name: buffer})

    envs.step = step
    found = Complaints()
    play_randomly(envs, 0, 3, 400, found)
    assert found.broken("arrays")
    assert {name for name in found.found if found.broken(name)} == {"arrays"}


def test_a_seed_that_is_ignored():
    report = judged("IgnoresItsSeed-v0")
    assert report.faithful
    assert verdicts(report) == {"seeds": "note", "exact": "note"}
    assert report.exact is False
    assert "before the first step" in what(report, "exact")


def test_where_nothing_is_random_another_seed_gives_the_same():
    report = judged("MiniGrid-Empty-5x5-v0", steps=120)
    assert report.exact
    assert verdicts(report) == {"seeds": "note"}


def test_masks():
    assert verdicts(judged("Masks-v0", action_mask=True)) == {}
    report = judged("ForbidsAll-v0", action_mask=True)
    assert verdicts(report) == {"mask": "broken"}
    assert "of step 5 allows nothing" in what(report, "mask")
    assert verdicts(judged("ForbidsAll-v0")) == {"mask": "note"}
    with pytest.raises(EnvConfigError, match="gives no info"):
        judged("Sound-v0", action_mask=True)


def test_some_entries():
    report = judged("Pendulum-v1", observation_indices=[0, 1], steps=210)
    assert (report.faithful, report.exact, verdicts(report)) == (True, True, {})
    positions = [0, 1, 4, 6, 7]
    report = judged("LunarLander-v3", observation_indices=positions, steps=210)
    assert report.faithful
    assert "broken" not in verdicts(report).values()


def test_what_was_seen():
    report = judged("WithSuccess-v0")
    assert report.seen._asdict() == {
        "steps": 100, "episodes": 28, "mean_length": LENGTH, "longest": LENGTH,
    }  # fmt: skip
    assert all(finding.advice == "" for finding in report.findings)
    told = what(report, "success").removeprefix("told where episodes end: ")
    solved, total = map(int, told.split(" of "))
    assert 0 < solved < total == 28
    more = judged("WithSuccess-v0", steps=50)
    assert (more.seen.steps, more.seen.episodes) == (50, 14)
    none = judged("WithSuccess-v0", steps=5)
    assert none.seen == (5, 0, None, 5)
    assert none.exact
    assert verdicts(none) == {"ends": "note"}
    assert what(none, "ends") == "no episode ended within 5 steps; --steps makes them more"


def test_lost_episodes_are_not_mistaken_for_others():
    report = judged("ShowsInfinity-v0")
    assert report.exact
    assert verdicts(report) == {"finite": "broken"}


def test_a_replay_that_is_too_long_for_the_configuration():
    report = judged("Sound-v0", longest_replay=LENGTH)
    assert not verdicts(report)
    report = judged("Sound-v0", longest_replay=LENGTH - 1)
    assert report.exact
    assert f"longest_replay={LENGTH - 1} begin anew; one had {LENGTH}" in what(report, "exact")


def test_when_workers_pay():
    costs = Timing(8, 0.0, 0.0, 0.0, 1.0, 1)
    pays = [workers_pay(costs._replace(step_seconds=s)) for s in (1e-5, 2e-4, 1e-2)]
    assert pays == [False, None, True]
    report = judged("Sound-v0", steps=10)
    assert report.workers_pay is workers_pay(report.costs)


def step(reward=0.0, shown=0.0, terminated=False, final=0.0):
    rows = np.zeros((2, 1), np.float32)
    observation = {"a": rows.copy(), "b": (rows + shown,)}
    flags = np.array([False, terminated])
    return EnvStep(
        observation, np.array([0, reward], np.float32), flags, flags & False,
        {"a": rows.copy(), "b": (rows + final,)} if terminated else None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"reward": -0.0}, "reward"),
        ({"terminated": True}, "terminated"),
        ({"shown": 1e-40}, "observation['b'][0]"),
    ],
)
def test_the_first_difference(keys, part):
    one, other = (Record(step().observation) for _ in range(2))
    for record, last in ((one, step(0.0)), (other, step(**keys))):
        record.add(step(1.0))
        record.add(last)
    difference = first_difference(one.columns, one.numbers(), other.numbers())
    row = 0 if part.startswith("obs") else 1
    assert difference == (2, row, part)
    assert str(difference) == f"{part} of environment {row}, after 2 steps"
    assert first_difference(one.columns, one.numbers()[:2], other.numbers()) is None


def test_final_observations_count_only_where_episodes_ended():
    records = [Record(step().observation) for _ in range(3)]
    for record, final in zip(records, (1.0, 1.0, 2.0), strict=True):
        last = step(terminated=True, final=final)
        last.final_observation["b"][0][0] = final * 7 + len(records)
        record.add(last)
    first, same, other = (record.numbers() for record in records)
    columns = records[0].columns
    assert first_difference(columns, first, same) is None
    assert first_difference(columns, first, other) == (1, 1, "final observation['b'][0]")


def complaint(space, observation):
    found = Complaints()
    check_member(space, observation, "here", found)
    return found.found["space"][:2] if found.found else None


def test_members_of_spaces_and_others():
    box = spaces.Box(0, np.array([1, 2], np.float32), (2,), np.float32)
    both = spaces.Dict({"x": box, "y": spaces.Tuple([spaces.MultiBinary(2)])})
    good = {"x": np.ones(2, np.float32), "y": (np.zeros(2, np.int8),)}
    assert complaint(both, good) is None
    assert complaint(both, good | {"x": np.float32([1, 3])}) == (
        "broken", "here: observation['x'] has 3.0 at [1], beyond [0.0, 2.0]"
    )  # fmt: skip
    _, words = complaint(both, good | {"y": (np.array([0, 2]),)})
    assert "observation['y'][0] is int64[2] [0 2], which is not in" in words
    for observation in (good | {"y": ()}, good["x"], {"x": good["x"]}):
        verdict, words = complaint(both, observation)
        assert verdict == "broken"
        assert "The obs returned by" in words
    assert complaint(spaces.Discrete(3), 2) is None
    assert complaint(spaces.Discrete(3), np.int32(2))[0] == "note"
    assert complaint(spaces.Discrete(3, start=2), np.int64(1))[0] == "broken"
    # told elsewhere
    assert complaint(both, good | {"x": np.float32([1, np.nan])}) is None


def test_spaces_themselves_are_looked_at():
    found = Complaints()
    flat = spaces.Box(0, 0, (2,), np.float32)
    check_declared_spaces(flat, flat, found)
    words = "A Box observation space maximum and minimum values are equal."
    assert found.found["space"] == ("note", words, 2)


def test_gymnasium_finds_faults_though_its_log_is_silenced(monkeypatch):
    monkeypatch.setattr("gymnasium.logger.min_level", 40)
    assert complaint(spaces.Discrete(3), 3)[0] == "broken"


def test_random_actions_are_those_that_a_mask_allows():
    space = spaces.MultiDiscrete([3, 2], start=[1, 0])
    space.seed(0)
    mask = np.array([[0, 0, 1, 1, 0], [0, 1, 0, 0, 1]], np.int8)
    for _ in range(5):
        drawn = random_actions(space, {"action_mask": mask}, 2)
        assert drawn.tolist() == [[3, 0], [2, 1]]
    assert len({tuple(a) for _ in range(30) for a in random_actions(space, {}, 2).tolist()}) == 6
