"""Who remembers gets all there is to get in our tasks; who does not is left to chance."""

import numpy as np
import pytest

from envs.tasks import TASKS, make_env, make_vector_env
from envs.tasks.question_task import NOT_ASKED
from envs.tasks.t_maze import DOWN, LEFT, RIGHT, UP

LEVELS = ("easy", "medium", "hard")


def first_suit(task, seen):
    return seen[0]


def kth_last_suit(task, seen):
    return seen[-task.k] if len(seen) >= task.k else 0


def suits_backwards(task, seen):
    if seen[-1][0] == 1:
        return 0
    # the last card is shown together with the first question
    num_watched = sum(mode for mode, _ in seen)
    num_answered = len(seen) - num_watched - 1
    return seen[num_watched - num_answered][1]


def count_so_far(task, seen):
    return sum(shown == seen[-1][1] for shown, _ in seen)


def latest_value(task, seen):
    key, asked = seen[-1]
    latest = {k: value for k, value in seen if value != task.num_values}
    return latest[key] if asked == task.num_values else 0


def turn_as_told(task, seen):
    if len(seen) < task.corridor_length:
        return RIGHT
    return UP if (seen[0][0], seen[0][1]) == (0, 1) else DOWN


def balance_by_differences(task, seen):
    (position, angle), (last_position, last_angle) = seen[-1], seen[-2:][0]
    # the differences of a step are a fiftieth of the velocities
    return int(
        angle + 25 * (angle - last_angle) + 0.05 * position + 5 * (position - last_position) > 0
    )


ORACLES = [
    *[("RepeatFirst", {"level": level}, first_suit, 1) for level in LEVELS],
    *[("RepeatPrevious", {"level": level}, kth_last_suit, 1) for level in LEVELS],
    ("RepeatPrevious", {"k": 1}, kth_last_suit, 1),
    ("RepeatPrevious", {"k": 51}, kth_last_suit, 1),
    *[("Autoencode", {"level": level}, suits_backwards, 1) for level in LEVELS],
    *[("CountRecall", {"level": level}, count_so_far, 1) for level in LEVELS],
    *[("KeyValueRecall", {"level": level}, latest_value, 1) for level in LEVELS],
    ("StatelessCartPole", {}, balance_by_differences, 1),
    ("TMaze", {"corridor_length": 20}, turn_as_told, 4 - 1.9),
    ("TMaze", {"corridor_length": 300}, turn_as_told, 4 - 29.9),
    ("TMaze", {"corridor_length": 2}, turn_as_told, 4 - 0.1),
    ("TMaze", {"corridor_length": 20, "variant": "bakker"}, turn_as_told, 4),
]


@pytest.mark.parametrize(("name", "parameters", "oracle", "best"), ORACLES)
def test_memory_gets_the_best_return(name, parameters, oracle, best):
    env = make_env(name, **parameters)
    for seed in range(2):
        seen = [env.reset(seed=seed)[0]]
        rewards = []
        last = False
        while not last:
            action = oracle(env.task, seen)
            observation, reward, terminated, truncated, info = env.step(action)
            seen.append(observation)
            rewards.append(reward)
            last = terminated or truncated
        assert sum(rewards) == pytest.approx(best, abs=1e-4)
        assert info == {"is_success": True}


@pytest.mark.parametrize(
    ("name", "parameters", "chance"),
    [
        ("RepeatFirst", {}, 1 / 4),
        ("RepeatPrevious", {}, 1 / 4),
        ("RepeatPrevious", {"level": "hard"}, 1 / 4),
        ("Autoencode", {}, 1 / 4),
        ("KeyValueRecall", {}, 1 / 4),
        ("KeyValueRecall", {"level": "medium"}, 1 / 8),
        ("KeyValueRecall", {"level": "hard"}, 1 / 16),
    ],
)
def test_no_function_of_the_present_observation_beats_chance(name, parameters, chance):
    task = TASKS[name](**parameters)
    generator = np.random.default_rng(0)
    counts = np.zeros((64, task.action_space.n))
    for _ in range(3000):
        seen, answers = task.script(generator)
        asked = answers != NOT_ASKED
        # of two columns one is constant where something is asked: the mode, or "asked for"
        observation = seen[:-1][asked].reshape(asked.sum(), -1).sum(axis=1)
        np.add.at(counts, (observation, answers[asked]), 1)
    best_accuracy = counts.max(axis=1).sum() / counts.sum()
    assert chance <= best_accuracy < 1.2 * chance + 0.01


def pairs_found(face_down, seen):
    """Where the cards lie that were found, in a game in which nobody turns these again."""
    found = np.zeros(len(seen[0]), dtype=bool)
    for after in seen[2::2]:
        turned = (after != face_down) & ~found
        if len(set(after[turned])) == 1:
            found |= turned
    return found


def play_known_pairs(task, seen, memory):
    """Turn two cards known to match, or else cards not known yet; what was seen fades in time."""
    face_down = len(task.kinds)
    found = pairs_found(face_down, seen)
    known = np.full(len(found), face_down)
    for observation in seen[-memory:]:
        known = np.where(observation != face_down, observation, known)
    known[found] = face_down
    candidates = np.flatnonzero(known != face_down)
    if len(seen) % 2 == 0:
        # the card that was just turned wants its like
        (first,) = np.flatnonzero((seen[-1] != face_down) & ~found)
        candidates = [
            place for place in candidates if place != first and known[place] == known[first]
        ]
        if candidates:
            return candidates[0]
    for place in candidates if len(seen) % 2 else ():
        if (known[candidates] == known[place]).sum() > 1:
            return place
    unknown = np.flatnonzero((known == face_down) & ~found)
    return unknown[len(seen) % len(unknown)] if len(unknown) else candidates[0]


def play_pairs(env, seed, memory):
    """The return of one game, and whether all pairs were found."""
    seen, rewards, last = [env.reset(seed=seed)[0]], [], False
    while not last:
        action = play_known_pairs(env.task, seen, memory)
        observation, reward, terminated, truncated, info = env.step(action)
        seen.append(observation)
        rewards.append(reward)
        last = terminated or truncated
    return sum(rewards), info["is_success"]


@pytest.mark.parametrize(
    ("level", "with_memory", "without"),
    [("easy", 0.75, 0.5), ("medium", 0.75, 0.5), ("hard", 0.6, -0.6)],
)
def test_who_remembers_cards_finds_all_pairs_in_time(level, with_memory, without):
    env = make_env("Concentration", level=level)
    returns, successes = zip(*[play_pairs(env, seed, 10**6) for seed in range(4)], strict=True)
    assert all(successes)
    assert min(returns) > with_memory
    returns, successes = zip(*[play_pairs(env, seed, 1) for seed in range(4)], strict=True)
    assert not all(successes)
    assert np.mean(returns) < without


def guess_the_likelier(envs, memory):
    """The returns of an episode each, knowing which cards are gone or taking the deck for full."""
    ranks = np.arange(13)
    rank, _ = envs.reset(seed=0)
    left = np.full((envs.num_envs, 13), 4)
    rewards = []
    for _ in range(envs.task.length):
        left[np.arange(envs.num_envs), rank] -= memory
        higher = np.where(ranks > rank[:, None], left, 0).sum(axis=1)
        lower = np.where(ranks < rank[:, None], left, 0).sum(axis=1)
        rank, reward, *_ = envs.step((higher < lower).astype(np.int64))
        rewards.append(reward)
    return np.sum(rewards, axis=0)


def test_counting_cards_guesses_better_than_the_last_card_alone():
    envs = make_vector_env("HigherLower", 500)
    returns = {memory: guess_the_likelier(envs, memory) for memory in (False, True)}
    gain = returns[True] - returns[False]
    assert gain.mean() > 5 * gain.std() / np.sqrt(500)
    assert 0.45 < returns[False].mean() < returns[True].mean() < 0.55


@pytest.mark.parametrize("name", ["Autoencode", "CountRecall", "KeyValueRecall", "RepeatPrevious"])
def test_a_single_mistake_is_no_success_and_is_forgotten(name):
    env = make_env(name)
    oracle = next(oracle for task, _, oracle, _ in ORACLES if task == name)
    seen = [env.reset(seed=0)[0]]
    actions = []
    terminated = False
    while not terminated:
        actions.append(oracle(env.task, seen))
        observation, _, terminated, _, info = env.step(actions[-1])
        seen.append(observation)
    assert info == {"is_success": True}
    wrong = (actions[-1] + 1) % env.action_space.n
    for last_action, success in ((wrong, False), (actions[-1], True)):
        env.reset(seed=0)
        for action in [*actions[:-1], last_action]:
            *_, info = env.step(action)
        assert info == {"is_success": success}


@pytest.mark.parametrize("rewrites", [0, 1, 20])
def test_a_key_is_always_rewritten_with_another_value(rewrites):
    task = TASKS["KeyValueRecall"](num_keys=5, num_values=3, num_rewrites=rewrites, num_queries=4)
    for seed in range(20):
        seen, answers = task.script(np.random.default_rng(seed))
        writes, queries = seen[: 5 + rewrites], seen[5 + rewrites : -1]
        assert (writes[:, 1] < 3).all()
        assert (queries[:, 1] == 3).all()
        assert len(set(queries[:, 0])) == len(queries) == 4
        for key in range(5):
            values = writes[writes[:, 0] == key, 1]
            assert len(values) >= 1
            assert (values[1:] != values[:-1]).all()
        assert (answers[: 5 + rewrites] == NOT_ASKED).all()


def test_a_memory_that_keeps_first_values_fails_where_keys_are_rewritten():
    task = TASKS["KeyValueRecall"](level="hard")
    right = []
    for seed in range(20):
        seen, answers = task.script(np.random.default_rng(seed))
        first = {key: value for key, value in seen[::-1] if value != task.num_values}
        asked = answers != NOT_ASKED
        right += [first[k] == a for k, a in zip(seen[:-1][asked, 0], answers[asked], strict=True)]
    assert 0 < np.mean(right) < 0.2


@pytest.mark.parametrize("variant", ["bakker", "agalite"])
def test_the_junction_does_not_tell_the_cue(variant):
    envs = make_vector_env("TMaze", 200, variant=variant, corridor_length=6, num_distractors=0)
    first, _ = envs.reset(seed=0)
    assert len(np.unique(first, axis=0)) == 2
    for _ in range(5):
        observation, *_ = envs.step(np.full(200, RIGHT))
    assert len(np.unique(observation, axis=0)) == 1
    *_, terminated, _, info = envs.step(np.full(200, UP))
    assert terminated.all()
    assert 0.4 < info["is_success"].mean() < 0.6


@pytest.mark.parametrize(("variant", "best"), [("bakker", 4), ("agalite", 4 - 999.9)])
def test_a_corridor_of_ten_thousand_squares_can_be_walked(variant, best):
    envs = make_vector_env("TMaze", 2, variant=variant, corridor_length=10_000)
    first, _ = envs.reset(seed=0)
    # in both variants the first bit is the cue
    cue = first[:, 0].astype(np.int64)
    total = np.zeros(2)
    for _ in range(9_999):
        _, reward, terminated, truncated, _ = envs.step(np.full(2, RIGHT))
        total += reward
        assert not (terminated | truncated).any()
    _, reward, terminated, *_, info = envs.step(cue)
    assert terminated.all()
    assert info["is_success"].all()
    np.testing.assert_allclose(total + reward, best, rtol=1e-5)


def walk(env, actions):
    """Observation, reward, terminated and truncated of each step."""
    return [env.step(action)[:4] for action in actions]


def test_bakkers_maze_looks_and_pays_as_published():
    env = make_env("TMaze", variant="bakker", corridor_length=3)
    seeds = {tuple(env.reset(seed=seed)[0]): seed for seed in range(20)}
    assert seeds.keys() == {(0, 1, 1), (1, 1, 0)}
    env.reset(seed=seeds[0, 1, 1])
    steps = walk(env, [LEFT, UP, RIGHT, LEFT, RIGHT, RIGHT, LEFT, RIGHT, RIGHT, DOWN])
    start, corridor, junction = (0, 1, 1), (1, 0, 1), (0, 1, 0)
    assert [tuple(step[0]) for step in steps[:-1]] == [
        *[start, start, corridor, start, corridor, junction, corridor, junction, junction]
    ]
    rewards = [step[1] for step in steps]
    np.testing.assert_allclose(rewards, [-0.1, -0.1, 0, 0, 0, 0, 0, 0, -0.1, -0.1], rtol=1e-6)
    assert [step[2] for step in steps] == [False] * 9 + [True]
    env.reset(seed=seeds[1, 1, 0])
    assert walk(env, [RIGHT, RIGHT, DOWN])[-1][1:] == (4, True, False)


def test_agalites_maze_looks_and_pays_as_published():
    env = make_env("TMaze", corridor_length=4)
    seeds = {tuple(env.reset(seed=seed)[0]): seed for seed in range(20)}
    assert seeds.keys() == {(0, 1, *[0] * 14), (1, 0, *[0] * 14)}
    env.reset(seed=seeds[0, 1, *[0] * 14])
    steps = walk(env, [LEFT, UP, RIGHT, RIGHT, RIGHT, LEFT, DOWN])
    looks = np.stack([step[0] for step in steps])
    assert looks.shape == (7, 16)
    assert (looks[:, :2] == 0).all()
    # Gray codes of 0, 0, 1, 2, 3, 3, 3: the junction cannot be left
    assert (looks[:, 2:8] == 0).all()
    assert looks[:, 8:10].tolist() == [[0, 0], [0, 0], [0, 1], [1, 1], [1, 0], [1, 0], [1, 0]]
    np.testing.assert_allclose([step[1] for step in steps], [-0.1] * 6 + [-1], rtol=1e-6)
    assert [step[2] for step in steps] == [False] * 6 + [True]
    env.reset(seed=seeds[0, 1, *[0] * 14])
    assert walk(env, [RIGHT, RIGHT, RIGHT, UP])[-1][1:] == (4, True, False)


def test_distractors_are_fair_coins_and_positions_a_gray_code():
    envs = make_vector_env("TMaze", 200, corridor_length=300)
    envs.reset(seed=0)
    looks = np.stack([envs.step(np.full(200, RIGHT))[0] for _ in range(299)])
    positions, distractors = looks[:, 0, 2:11], looks[:, :, 11:]
    assert (np.abs(np.diff(positions.astype(int), axis=0)).sum(axis=1) == 1).all()
    assert len(np.unique(positions, axis=0)) == 299
    assert np.abs(distractors.mean(axis=(0, 1)) - 0.5).max() < 0.01


def test_the_clock_of_the_maze_truncates_but_not_a_turn():
    env = make_env("TMaze", corridor_length=3, time_limit=3)
    env.reset(seed=0)
    steps = walk(env, [RIGHT, RIGHT, RIGHT])
    assert [step[2:] for step in steps] == [(False, False), (False, False), (False, True)]
    env.reset(seed=0)
    assert walk(env, [RIGHT, RIGHT, UP])[-1][2:] == (True, False)
