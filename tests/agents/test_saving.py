import shutil
import subprocess
import sys

import pytest
import torch
from gymnasium import spaces
from scheduled_env import EPISODES, ScheduledEnv, small_policy

from agents import saving
from agents.encoders import EncoderConfig
from agents.policy import PolicyInput, RewardConfig
from agents.saving import (
    best_checkpoint,
    describe_policy,
    find_checkpoint,
    list_checkpoints,
    load_policy,
    load_saved,
)
from fwrl import CORES
from fwrl.files.checkpoint import CheckpointError, save_checkpoint

SPACE = spaces.Dict([("z", spaces.Box(-9, 9, (3,))), ("a", spaces.Discrete(4, start=1))])


def make_policy(kind="fast_weight", seed=0):
    torch.manual_seed(seed)
    return small_policy(
        ScheduledEnv(EPISODES, space=SPACE),
        kind,
        encoder=EncoderConfig(time_frequencies=3, normalise_observations=True),
        reward=RewardConfig(clip=1.0, normalise=True),
    )


def save(run, step, policy, score=None):
    document = {"policy": describe_policy(policy), "score": score}
    save_checkpoint(run / "checkpoints" / str(step), {"policy": policy.state_dict()}, document)


def act(policy):
    inputs = PolicyInput(
        {"z": torch.tensor([[1.0, -2.0, 3.0]]), "a": torch.tensor([3])},
        torch.tensor([[1]]),
        torch.tensor([0.5]),
        torch.tensor([4]),
    )
    output, _ = policy.step(inputs, policy.initial_state(1))
    return torch.cat([output.action.log_probs.flatten(), output.value])


LOADED_FIRST = """
import sys
from agents.saving import load_policy
for path in sys.argv[1:]:
    policy = load_policy(path)
    assert not any(leaf.is_meta for leaf in [*policy.parameters(), *policy.buffers()]), path
"""


def test_a_policy_loads_in_a_process_that_has_made_none(tmp_path):
    for kind in CORES:
        save(tmp_path / kind, 10, make_policy(kind))
    paths = [str(tmp_path / kind) for kind in CORES]
    subprocess.run([sys.executable, "-c", LOADED_FIRST, *paths], check=True)


@pytest.mark.parametrize("kind", CORES)
def test_a_loaded_policy_is_the_saved_one(tmp_path, kind):
    policy = make_policy(kind)
    seen = {"z": torch.randn(2, 5, 3), "a": torch.ones(2, 5, dtype=torch.int64)}
    policy.update_normalisers(seen, torch.randn(2, 5))
    save(tmp_path, 10, policy)
    loaded = load_policy(tmp_path)
    assert loaded.config == policy.config
    assert loaded.observation_space == policy.observation_space
    assert list(loaded.observation_space.spaces) == ["z", "a"]
    assert loaded.action_space == policy.action_space
    assert torch.equal(act(loaded), act(policy))
    assert torch.equal(loaded.return_moments.variance, policy.return_moments.variance)
    assert not loaded.training


def test_which_checkpoint(tmp_path, monkeypatch):
    policies = {step: make_policy(seed=step) for step in (9, 100, 20)}
    for step, score in ((9, 5.0), (20, None), (100, -1.0)):
        save(tmp_path, step, policies[step], score)
    (tmp_path / "checkpoints" / ".100.tmp").mkdir()
    # a folder that happens to be called like a step is not meant
    (tmp_path / "elsewhere" / "20").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")

    def step_of(path, which):
        loaded = act(load_policy(path, which))
        return next(step for step, policy in policies.items() if torch.equal(act(policy), loaded))

    assert step_of(tmp_path, "best") == 9
    assert step_of(str(tmp_path), "last") == 100
    assert step_of(tmp_path, "20") == 20
    assert step_of(tmp_path, str(tmp_path / "checkpoints" / "20")) == 20
    # a checkpoint folder is one, whatever is asked
    assert step_of(tmp_path / "checkpoints" / "100", "best") == 100
    assert [path.name for path in list_checkpoints(tmp_path)] == ["9", "20", "100"]


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([1.0, 2.0, 2.0, 0.0], 2),
        ([None, None], 1),
        ([-3.0, None], 0),
        ([1.0, float("nan")], 0),
        ([float("nan"), 1.0, float("nan")], 1),
        (["oops", 1], 1),
    ],
)
def test_the_best_has_the_highest_score(tmp_path, scores, best):
    policy = make_policy()
    for step, score in enumerate(scores):
        save(tmp_path, step, policy, score)
    assert best_checkpoint(list_checkpoints(tmp_path)).name == str(best)


def refusal(call, *arguments):
    with pytest.raises(CheckpointError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_missing_is_said(tmp_path):
    nowhere = tmp_path / "nowhere"
    assert refusal(load_policy, nowhere) == f"{nowhere}: no such run directory"
    (tmp_path / "policy.onnx").touch()
    assert "a file; expected a run directory" in refusal(load_policy, tmp_path / "policy.onnx")
    assert "not a run directory with a checkpoint" in refusal(load_policy, tmp_path)
    save(tmp_path, 10, make_policy())
    message = refusal(find_checkpoint, tmp_path, "11")
    assert message.endswith("no checkpoint '11'; it should be best, last, a path or a step (10)")


def test_a_description_that_is_none_is_refused(tmp_path):
    policy = make_policy()
    good = describe_policy(policy)
    changes = {
        "KeyError('observation_space')": {"observation_space": None},
        "clipp: no such key": {"config": good["config"] | {"clipp": 1}},
        "the configuration is 3": {"config": 3},
        "unknown kind of space": {"action_space": {"type": "Pear"}},
        "its policy cannot be built": {"action_space": {"type": "Discrete", "n": 0, "start": 0}},
        "no action head": {"action_space": good["observation_space"]},
        "NoneType": {"action_space": None},
    }
    for message, change in changes.items():
        described = good | change
        if message.startswith("KeyError"):
            del described["observation_space"]
        save_checkpoint(tmp_path / "1", {"policy": policy.state_dict()}, {"policy": described})
        assert message in refusal(load_policy, tmp_path / "1")
    save_checkpoint(tmp_path / "1", {}, {})
    refusal(load_policy, tmp_path / "1")


def test_tensors_of_another_shape_are_named(tmp_path):
    policy = make_policy()
    tensors = policy.state_dict() | {"value.weight": torch.zeros(1, 99)}
    save_checkpoint(tmp_path / "1", {"policy": tensors}, {"policy": describe_policy(policy)})
    assert "value.weight has shape [1, 99], this policy needs [1, 16]" in refusal(
        load_policy, tmp_path / "1"
    )
    save_checkpoint(tmp_path / "1", {}, {"policy": describe_policy(policy)})
    assert "is missing" in refusal(load_policy, tmp_path / "1")


@pytest.mark.parametrize("which", ["best", "last"])
def test_a_training_deletes_the_checkpoint_that_was_found(tmp_path, which, monkeypatch):
    newest = make_policy(seed=2)
    save(tmp_path, 1, make_policy(seed=1), 1.0)

    def find_and_lose(run, which):
        folder = find_checkpoint(run, which)
        if folder.name == "1":
            save(tmp_path, 2, newest, 2.0)
            shutil.rmtree(folder)
        return folder

    monkeypatch.setattr(saving, "find_checkpoint", find_and_lose)
    saved = load_saved(tmp_path, which)
    assert (saved.folder.name, saved.document["score"]) == ("2", 2.0)
    assert torch.equal(act(saved.policy), act(newest))
