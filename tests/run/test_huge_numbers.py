"""Huge, finite observations and rewards: every action is finite and inside its space."""

import csv

import numpy as np
import pytest
import torch
from command_line import run_command
from gymnasium import spaces
from huge_env import ACTIONS, ID, SEEN, filled, huge_env
from sampling_env import CONFIG, write_config

from agents.actions import DivergedError, make_head
from agents.policy import PolicyConfig, RecurrentPolicy
from agents.saving import load_policy, load_saved
from agents.sb3 import SB3Policy
from fwrl.run import evaluation, loop

# many small trainings; test_cli.py checks the shapes in one
pytestmark = pytest.mark.unchecked

MAGNITUDES = [1e10, 1e38]


def train(folder, *words, **changes):
    changes = {"env": CONFIG["env"] | {"id": ID}} | changes
    config, run = write_config(folder, **changes), folder / "run"
    code = run_command("train", config, "total_steps=64", *words, "--run-dir", run)
    return code, run


def last_row(run):
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))[-1]


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("seen", SEEN)
def test_huge_observations_and_rewards(seen, magnitude, normalise, tmp_path, capsys):
    normalised = {
        "encoder": {"image_features": 8, "normalise_observations": normalise},
        "reward": {"normalise": normalise},
    }
    for number, reward in enumerate((1.0, magnitude)):
        folder = tmp_path / str(number)
        folder.mkdir()
        with huge_env(SEEN[seen], ACTIONS["unbounded"], magnitude, reward):
            code, run = train(folder, **normalised)
            assert code == 0
            assert run_command("evaluate", run, "--episodes", 2) == 0
            said = capsys.readouterr()
            assert "slot" not in said.out + said.err
        row = last_row(run)
        assert float(row["health/env_faults"]) == float(row["health/rollbacks"]) == 0
        # the critic cannot learn returns of 1e38, which is no reason for anything else to fail
        assert float(row["health/skipped_updates"]) == 0
        policy = load_policy(run)
        assert all(leaf.isfinite().all() for leaf in policy.state_dict().values())
        model = SB3Policy(policy)
        observation = filled(SEEN[seen], np.full(3, magnitude))
        action, _ = model.predict(observation)
        assert policy.action_space.contains(action)


@pytest.mark.parametrize("bare", ["false", "true"])
@pytest.mark.parametrize("actions", ACTIONS)
def test_every_action_space(actions, bare, tmp_path):
    with huge_env(SEEN["parts"], ACTIONS[actions], 1e30, 1e30):
        words = [f"stack.bare={bare}", "core.kind=lstm"]
        code, run = train(tmp_path, *words, stack={"width": 8})
        assert code == 0
        assert float(last_row(run)["health/env_faults"]) == 0
        assert run_command("evaluate", run, "--episodes", 2, "--stochastic") == 0


@pytest.mark.parametrize("number", [0.0, 1e-30, 1e30, -3e38, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", [name for name in ACTIONS if name not in ("discrete", "factors")])
def test_any_number_becomes_an_action_of_the_space(name, number):
    space = ACTIONS[name]
    found = make_head(space, 4).to_environment(torch.full((3, 2), number))
    assert all(space.contains(row) for row in found)


def test_below_the_bound_nothing_is_changed():
    space = spaces.Box(-np.inf, np.inf, (3,))
    policy = RecurrentPolicy(space, spaces.Discrete(2), PolicyConfig())
    numbers = torch.tensor([[1e11, -1e12, 1e-30]])
    assert torch.equal(policy.encoder(numbers), numbers)
    assert torch.equal(policy.learned_reward(numbers), numbers)


@pytest.mark.parametrize("name", ["discrete", "factors", "unbounded"])
@pytest.mark.parametrize("broken", ["value.weight", "head", "project.weight"])
def test_a_policy_that_is_not_finite_is_named(name, broken):
    policy = RecurrentPolicy(SEEN["parts"], ACTIONS[name], PolicyConfig())
    broken = "head.mean.bias" if broken == "head" and name == "unbounded" else broken
    if name == "unbounded" and broken == "head.mean.bias":
        # of random actions it is the spread, too
        spread = RecurrentPolicy(SEEN["parts"], ACTIONS[name], PolicyConfig())
        spread.head.log_std.data[0] = torch.nan
        with pytest.raises(DivergedError, match=r"its head\.log_std is not"):
            SB3Policy(spread).predict(filled(SEEN["parts"], np.ones(3)))
    broken = "head.linear.bias" if broken == "head" else broken
    policy.get_parameter(broken).data.view(-1)[0] = torch.nan
    observation = filled(SEEN["parts"], np.ones(3))
    with pytest.raises(DivergedError) as error:
        SB3Policy(policy).predict(observation)
    assert str(error.value) == f"the policy's output is not finite: its {broken} is not"


def test_the_part_that_is_largest_is_named():
    policy = RecurrentPolicy(SEEN["parts"], ACTIONS["discrete"], PolicyConfig())
    for leaf in policy.project.parameters():
        leaf.data.fill_(3e38)
    observation = {"x": np.ones(3), "y": (np.full(3, 1e20),)}
    with pytest.raises(DivergedError, match=r"parameters are; observation.y.0 reaches 1e\+20"):
        SB3Policy(policy).predict(observation)


def test_a_policy_that_diverges_in_training_is_taken_back(tmp_path, capsys, monkeypatch):
    update, calls = loop.ppo_update, []

    def diverge(policy, *arguments):
        calls.append(len(calls))
        metrics = update(policy, *arguments)
        if len(calls) in (3, 4):
            policy.value.bias.data.fill_(torch.nan)
        return metrics

    monkeypatch.setattr(loop, "ppo_update", diverge)
    with huge_env(SEEN["float32"], ACTIONS["unbounded"], 1.0, 1.0):
        code, run = train(tmp_path)
        assert code == 0
        said = " ".join(capsys.readouterr().out.split())
        assert (
            "the policy's output is not finite: its value.bias is not; the policy is taken" in said
        )
        assert "slot" not in said
        assert float(last_row(run)["health/rollbacks"]) == 2


def test_a_policy_that_diverges_again_and_again_ends_the_training(tmp_path, capsys, monkeypatch):
    update = loop.ppo_update

    def diverge(policy, *arguments):
        metrics = update(policy, *arguments)
        policy.value.bias.data.fill_(torch.nan)
        return metrics

    monkeypatch.setattr(loop, "ppo_update", diverge)
    with huge_env(SEEN["float32"], ACTIONS["discrete"], 1.0, 1.0):
        code, _ = train(tmp_path)
        assert code == 1
        said = " ".join(capsys.readouterr().out.split())
        assert "its value.bias is not; taken back 3 times, it does not help" in said


def test_an_evaluation_by_a_policy_that_is_not_finite_ends_in_one_line(
    tmp_path, monkeypatch, capsys
):
    def load_spoilt(*arguments):
        saved = load_saved(*arguments)
        # such a file is refused: this stands for numbers that become so only inside the policy
        saved.policy.value.bias.data.fill_(torch.nan)
        return saved

    with huge_env(SEEN["float32"], ACTIONS["discrete"], 1.0, 1.0):
        code, run = train(tmp_path)
        assert code == 0
        capsys.readouterr()
        monkeypatch.setattr(evaluation, "load_saved", load_spoilt)
        assert run_command("evaluate", run, "--episodes", 2) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "fwrl: the policy's output is not finite: its value.bias is not\n"
