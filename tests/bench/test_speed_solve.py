"""Learners in processes of their own, and the time until a task is solved."""

import sys
from contextlib import closing

import pytest
import torch

from agents.ppo import PPOConfig
from fwrl.bench.benchmark import UnfitError
from fwrl.bench.speed import solve, trainers
from fwrl.bench.speed.child import Child
from fwrl.bench.speed.job import TrainingConfig, mean_return, vec_env
from fwrl.bench.speed.settings import SpeedSettings
from fwrl.bench.speed.timing import Seconds

CPU = torch.device("cpu")
# A learner that says what it was told, works for a while in each iteration, and fails in the end.
LEARNER = """
import os, time
from fwrl.bench.speed.child import serve

class Learner:
    def __init__(self, job):
        self.job, self.iterations = job, 0
        print("not an answer")

    def iterate(self):
        self.iterations += 1
        began = time.process_time()
        while time.process_time() - began < 0.05:
            pass
        assert self.iterations < 3

    def evaluate(self, episodes):
        threads = len(os.sched_getaffinity(0))
        return self.iterations + 10 * episodes + 100 * self.job.num_envs + 1000.0 * threads

serve(Learner)
"""


def test_a_child_does_what_it_is_asked_and_tells_its_time(capfd):
    job = TrainingConfig(task="RepeatPrevious", num_envs=3)
    with closing(Child([sys.executable, "-c", LEARNER], job)) as child:
        assert child.preparation.wall >= 0
        for _ in range(2):
            took = child.iterate()
            assert took.wall >= 0.05
            assert 0.05 <= took.processor < 0.2
        # on as many processors as there are to be threads
        assert child.evaluate(7) == 1000 + 300 + 70 + 2
        with pytest.raises(UnfitError, match="ended with code 1"):
            child.iterate()
    assert "not an answer" in capfd.readouterr().err


def test_a_child_that_does_not_start_is_one_line():
    with pytest.raises(UnfitError, match=r"^no learner: ended with code 3$"):
        Child(
            [sys.executable, "-c", "raise SystemExit(3)", "no learner"],
            TrainingConfig(task="RepeatPrevious", num_envs=3),
        )


def test_a_child_ends_when_it_is_closed():
    words = "import sys; print([0, 0]); sys.stdout.flush(); sys.stdin.read()"
    child = Child([sys.executable, "-c", words], TrainingConfig(task="RepeatPrevious", num_envs=3))
    assert child.process.poll() is None
    child.close()
    assert child.process.returncode == 0


class Scripted:
    """A learner of given returns, which takes a second for each iteration."""

    def __init__(self, returns):
        self.returns, self.iterations = list(returns), 0

    def iterate(self):
        self.iterations += 1
        return Seconds(2.0, 1.0)

    def evaluate(self, episodes):
        return self.returns.pop(0)


def solved(monkeypatch, returns, **settings):
    learner = Scripted(returns)
    monkeypatch.setattr(solve, "_learner", lambda *_: learner)
    measurement = solve.measure_solve(SpeedSettings(**settings), CPU, 0, "a", "quickstart")
    while True:
        try:
            next(measurement)
        except StopIteration as end:
            return end.value[0], learner


def test_the_clock_stops_when_the_return_is_reached(monkeypatch):
    row, learner = solved(monkeypatch, [0.1, 0.96, 0.99], solve_every=7680)
    # 64 environments, 60 steps: evaluated after every second iteration
    assert learner.iterations == 4
    assert (row["steps"], row["return"], row["note"]) == (4 * 3840, 0.96, "")
    assert row["processor_total"] - row["processor_preparation"] == 4.0
    assert row["total"] - row["preparation"] == 8.0


def test_a_budget_ends_what_is_not_solved(monkeypatch):
    row, learner = solved(monkeypatch, [0.5], solve_budget=0.05, solve_every=10**6)
    # 10,000 of the 200,000 steps, in whole rollouts, and one look at the end
    assert learner.iterations == 3
    assert row["note"] == "not solved in 11,520 steps"
    assert learner.returns == []


def test_peers_learn_the_task_of_our_configuration():
    config = solve.load_run_config(solve.find_config(solve.Path(solve.TASKS["quickstart"][0])))
    learner = solve._learner(config, 1000, CPU, 3, trainers.ONE_FILE)
    job = learner.job
    assert job.env.id == config.env.id
    assert job.env.options == config.env.options
    assert (job.seed, job.total_steps, job.num_envs) == (3, 1000, config.env.num_envs)
    assert job.ppo.num_steps == config.ppo.num_steps
    ours = solve._learner(config, 1000, CPU, 3, trainers.OURS)
    assert ours.policy.config == config.policy
    assert ours.total_steps == config.total_steps


def test_rewards_are_scaled_where_they_are_learned_from():
    raw, scaled = (
        vec_env(TrainingConfig(task="RepeatPrevious", num_envs=2, reward_scale=scale))
        for scale in (1, 48)
    )
    for envs in (raw, scaled):
        assert envs.reset().shape == (2,)
    action = torch.zeros(2, dtype=torch.int64).numpy()
    for _ in range(6):
        (_, one, *_), (_, other, *_) = (envs.step(action) for envs in (raw, scaled))
        assert other.tolist() == pytest.approx((48 * one).tolist())
    assert abs(one).max() > 0
    # a whole episode of one answer
    assert -0.7 < mean_return(raw, lambda seen: action) < -0.3


@pytest.mark.parametrize("name", ["RecurrentPPO, one LSTM", trainers.FEED_FORWARD])
def test_stable_baselines_learns_at_the_rate_of_the_job(name):
    pytest.importorskip("sb3_contrib")
    config = PPOConfig(
        num_steps=8, epochs=1, minibatches=1, learning_rate=0.01, learning_rate_schedule="linear"
    )
    job = TrainingConfig(task="RepeatPrevious", num_envs=2, width=8, ppo=config, total_steps=32)
    agent = trainers.TRAINERS[name](job, CPU)
    rates = []
    for _ in range(2):
        agent.iterate()
        rates.append(agent.model.policy.optimizer.param_groups[0]["lr"])
    # as its own schedule, it looks after the rollout
    assert rates == pytest.approx([0.005, 0.0])
    assert -1 <= agent.evaluate(3) <= 0


@pytest.mark.parametrize("name", ["RecurrentPPO", trainers.ONE_FILE])
def test_observations_may_have_several_columns(name):
    pytest.importorskip("sb3_contrib")
    config = PPOConfig(num_steps=8, epochs=1, minibatches=1)
    job = TrainingConfig(task="KeyValueRecall", num_envs=2, width=8, ppo=config)
    agent = trainers.TRAINERS[name](job, CPU)
    agent.iterate()
    assert -1 <= agent.evaluate(3) <= 1
