"""Faults in evaluations and first resets: an error of one line, and nothing is lost."""

import json
import shutil

import numpy as np
import pytest
from command_line import run_command
from failing_gymnasium_env import registered_envs

from fwrl.run.build import prepare
from fwrl.run.config import load_run_config
from fwrl.run.video.episode_frames import moments, pictures_of

CONFIG = """
env: {id: Faulty-v0, num_envs: 2}
stack: {width: 16}
ppo: {num_steps: 16, minibatches: 2}
evaluation: {every_steps: 32, episodes: 2, num_envs: 2}
total_steps: 32
"""


@pytest.fixture(scope="module", autouse=True)
def registered():
    with registered_envs():
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    (folder / "faulty.yaml").write_text(CONFIG)
    assert run_command("train", folder / "faulty.yaml", "--run-dir", folder / "run") == 0
    return folder


@pytest.fixture
def folder(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def evaluated(*words):
    return run_command("evaluate", "run", "--episodes", 4, *words)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["env.options.how=never resets"], "3 resets in a row failed: Faulty-v0: slot"),
        (["env.options.how=raise at once"], "environments fail again and again: Faulty-v0"),
    ],
)
def test_an_environment_that_fails_for_good_is_one_line(words, what, folder, capsys):
    assert evaluated(*words) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"fwrl: {what}")
    assert error.count("\n") == 1
    # the first reset of a training, with a seed of which none is opened
    words = ["faulty.yaml", "seed=2000", "env.options.how=never resets", "--run-dir", "other"]
    assert run_command("train", *words) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("fwrl: 3 resets in a row failed")


def test_an_environment_that_cannot_be_closed_loses_no_result(folder):
    with pytest.warns(RuntimeWarning, match="close: RuntimeError: closed already"):
        assert evaluated("env.options.how=close") == 0
    (file,) = (folder / "run/evaluations").iterdir()
    assert json.loads(file.read_text())["episodes"] == 4
    words = ["faulty.yaml", "env.options.how=close", "--run-dir", "other"]
    with pytest.warns(RuntimeWarning, match="close: RuntimeError: closed already"):
        assert run_command("train", *words) == 0


def test_faults_of_an_evaluation_are_counted_in_its_result(folder, capsys):
    assert evaluated("env.options.how=raise", "--seed", 1) == 0
    assert "faults  1; these episodes count for nothing" in capsys.readouterr().out
    (file,) = (folder / "run/evaluations").iterdir()
    assert json.loads(file.read_text())["faults"] == 1


def test_an_episode_that_a_fault_cut_is_not_explained(folder, capsys, monkeypatch):
    config = (folder / "run/config.yaml").read_text()
    (folder / "run/config.yaml").write_text(config.replace("options: {}", "options: {how: raise}"))
    assert run_command("inspect", "run", "--seed", 1) == 1
    error = capsys.readouterr().err
    assert error.startswith("fwrl: the environment failed in this episode: Faulty-v0: slot 0")
    assert error.count("\n") == 1
    assert run_command("inspect", "run", "--seed", 2) == 0


def test_names_that_are_too_long_are_cut_and_still_differ(folder):
    long = [f"env.options={{how: {letter * 90}}}" for letter in "abc"]
    assert evaluated(*long) == evaluated(*long[:2], long[2].replace("c", "d")) == 0
    files = list((folder / "run/evaluations").iterdir())
    assert len(files) == 2
    assert all(json.loads(file.read_text())["overrides"][:2] == long[:2] for file in files)


def test_a_folder_that_cannot_be_made_is_said_first(folder, monkeypatch, capsys):
    def never(*_):
        raise AssertionError("nothing should be played")

    monkeypatch.setattr("fwrl.run.evaluation.evaluate", never)
    (folder / "film").touch()
    assert evaluated("--video", "film") == 2
    assert "film: cannot be made a folder (File exists)" in capsys.readouterr().err
    shutil.rmtree(folder / "run/evaluations", ignore_errors=True)
    (folder / "run/evaluations").touch()
    assert evaluated() == 2
    assert "evaluations: cannot be made a folder" in capsys.readouterr().err


def test_a_video_ends_where_a_fault_ends_the_episode(folder, monkeypatch):
    setup = prepare(load_run_config(folder / "faulty.yaml", ["env.options.how=raise"]))
    monkeypatch.setattr(setup.envs, "render", lambda: np.zeros((8, 8, 3), np.uint8))
    shown = list(moments(setup.envs, setup.learner.policy, 1, 50, True))
    # it breaks at its fourth action
    assert [int(moment.acted.inputs.elapsed[0]) for moment in shown] == [0, 1, 2, 3]
    assert len(list(pictures_of(iter(shown)))) == 3
