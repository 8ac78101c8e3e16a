"""The graph task: its graphs, its rules against a plain simulation, and its two known returns."""

import hashlib

import numpy as np
import pytest

from envs.tasks import make_env, make_vector_env
from envs.tasks.graphs import NOWHERE, is_connected, published_graphs, random_graph, unseen_graph

NUM_ENVS = 1200
EPISODES = 5

# of the arrays as int8, from graphs drawn by the published generator
FINGERPRINTS = {
    "train": "fa74ad11732cebca356d48101a7b64902232ac23a8410668a4b90dd763edf9bf",
    "test": "6e240e17fe9d0d1fa647062c582f9230700107e58c7bc73cfa22de73a61db0b0",
}


def distances(graphs):
    """Steps from each place to each other, per graph: [graphs, from, to]."""
    edges = (graphs[..., None] == np.arange(5)).any(axis=1)
    steps = np.where(np.eye(5, dtype=bool), 0, np.where(edges, 1, 99))
    for _ in range(5):
        steps = np.minimum(steps, (steps[:, :, :, None] + steps[:, None]).min(axis=2))
    return steps


def at_random(observation, task, generator):
    return generator.integers(3, size=len(observation))


def shortest_way(observation, task, generator):
    goal, place = observation[:, :5].argmax(1), observation[:, 5:10].argmax(1)
    rows = np.arange(len(goal))
    then = task.graph[rows, :, place]
    steps = distances(task.graph)[rows[:, None], then, goal[:, None]]
    return np.where(then == NOWHERE, 99, steps).argmin(axis=1)


def mean_return(policy, **parameters):
    envs = make_vector_env("GraphMetaRL", NUM_ENVS, **parameters)
    generator = np.random.default_rng(0)
    observation, _ = envs.reset(seed=0)
    total = 0.0
    for step in range(30 * EPISODES):
        action = policy(observation, envs.task, generator)
        observation, reward, terminated, truncated, _ = envs.step(action)
        total += reward.sum()
        assert terminated.all() == terminated.any() == ((step + 1) % 30 == 0)
        assert not truncated.any()
    return total / NUM_ENVS / EPISODES


@pytest.mark.parametrize("split", ["train", "test", "fresh"])
def test_a_random_policy_earns_45(split):
    assert mean_return(at_random, split=split) == pytest.approx(45.3, abs=1)


@pytest.mark.parametrize("split", ["train", "test", "fresh"])
def test_shortest_ways_earn_165(split):
    assert mean_return(shortest_way, split=split) == pytest.approx(165, abs=2)


def test_patience_after_an_arrival_is_worth_five():
    assert mean_return(shortest_way, patient_after_arrival=True) == pytest.approx(171, abs=2)


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_graphs_are_the_published_ones(split):
    graphs = published_graphs()[split]
    assert graphs.shape == (600, 3, 5)
    fingerprint = hashlib.sha256(graphs.astype(np.int8).tobytes()).hexdigest()
    assert fingerprint == FINGERPRINTS[split]


def test_graphs_have_ten_ways_and_connect_everything():
    graphs = np.concatenate(list(published_graphs().values()))
    assert ((graphs != NOWHERE).sum(axis=(1, 2)) == 10).all()
    assert (graphs != np.arange(5)).all()
    steps = distances(graphs)
    assert steps.max() < 99
    assert steps.sum() / (20 * len(graphs)) == pytest.approx(1.75, abs=0.02)


def test_a_graph_in_two_parts_is_not_connected():
    parted = np.array([[1, 0, 3, 4, 2], [NOWHERE] * 5, [NOWHERE] * 5])
    assert not is_connected(parted)
    assert is_connected(np.array([[1, 2, 3, 4, 0], [2, NOWHERE, NOWHERE, 0, 1], [NOWHERE] * 5]))


def test_a_graph_that_was_seen_is_drawn_again():
    def draws():
        return np.random.RandomState(0).randint

    first = random_graph(draws())
    np.testing.assert_array_equal(unseen_graph(draws(), np.zeros((2, 3, 5), dtype=int)), first)
    assert (unseen_graph(draws(), np.stack([first, first])) != first).any()


def test_fresh_graphs_are_new_and_not_of_the_test_split():
    envs = make_vector_env("GraphMetaRL", 50, split="fresh")
    envs.reset(seed=0)
    before = {graph.tobytes() for graph in envs.task.graph}
    for _ in range(30):
        envs.step(np.zeros(50, dtype=np.int64))
    after = {graph.tobytes() for graph in envs.task.graph}
    test = {graph.tobytes() for graph in published_graphs()["test"]}
    assert len(before) == len(after) == 50
    assert not before & after
    assert not (before | after) & test


def test_every_environment_can_have_a_graph_of_its_own():
    graphs = published_graphs()["test"]
    envs = make_vector_env("GraphMetaRL", 5, split="test", graph=598)
    single = make_env("GraphMetaRL", split="test", graph=598 + 1)
    for _ in range(2):
        observation, _ = envs.reset(seed=0)
        np.testing.assert_array_equal(envs.task.graph, graphs[[598, 599, 0, 1, 2]])
        np.testing.assert_array_equal(single.reset(seed=1)[0], observation[1])
        np.testing.assert_array_equal(single.task.graph[0], graphs[599])
        for _ in range(30):
            envs.step(np.zeros(5, dtype=np.int64))
        np.testing.assert_array_equal(envs.task.graph, graphs[[598, 599, 0, 1, 2]])
    with pytest.raises(ValueError, match="graph goes with split 'train' or 'test', not 'fresh'"):
        make_env("GraphMetaRL", split="fresh", graph=0)


@pytest.mark.parametrize("patient", [False, True])
def test_every_step_follows_the_rules(patient):
    """A plain simulation, one environment and one number at a time, says the same."""
    env = make_env("GraphMetaRL", patient_after_arrival=patient)
    generator = np.random.default_rng(0)
    arrivals = relocations = 0
    for seed in range(40):
        seen, _ = env.reset(seed=seed)
        assert seen[10:17].tolist() == [0, 0, 0, 1, 1, 0, 0]
        waited = 0
        for step in range(30):
            goal, place = seen[:5].argmax(), seen[5:10].argmax()
            assert goal != place
            action = int(generator.integers(3))
            then = env.task.graph[0, action, place]
            arrived = then == goal
            waited = (0 if patient else waited) if arrived else waited + 1
            lost = waited > 5
            waited = 0 if lost else waited
            seen, reward, terminated, truncated, info = env.step(action)
            expected = 10 if arrived else -0.05 if then == NOWHERE else 0
            assert reward == pytest.approx(expected)
            if arrived or lost:
                assert seen[:5].argmax() != goal
            else:
                assert seen[:5].argmax() == goal
                assert seen[5:10].argmax() == (place if then == NOWHERE else then)
            told = np.eye(4)[3 if lost else action]
            np.testing.assert_allclose(seen[10:], [*told, 1, (step + 1) / 30, expected], rtol=1e-6)
            assert seen[:10].sum() == 2
            arrivals += arrived
            relocations += lost
        assert terminated
        assert not truncated
        assert info == {}
    assert arrivals > 100
    assert relocations > 100


def test_the_published_observation_hides_the_reward_and_that_there_was_no_action():
    ours = make_env("GraphMetaRL")
    published = make_env("GraphMetaRL", published_observation=True)
    seen, shown = ours.reset(seed=0)[0], published.reset(seed=0)[0]
    generator = np.random.default_rng(0)
    for _ in range(31):
        np.testing.assert_array_equal(shown[:10], seen[:10])
        assert shown[10] == shown[16] == 0
        np.testing.assert_array_equal(shown[11:14], seen[10:13])
        np.testing.assert_array_equal(shown[14:16], seen[14:16])
        if seen[15] < 1:
            action = int(generator.integers(3))
            seen, shown = ours.step(action)[0], published.step(action)[0]
