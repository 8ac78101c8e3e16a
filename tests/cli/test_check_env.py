"""``fwrl check-env`` as a user types it."""

import json

import pytest
from command_line import run_command
from contract_violations import registered_envs

from envs import AtariConfig, GymnasiumConfig
from fwrl.cli.check_env import find_env
from fwrl.config import ConfigError


@pytest.fixture(autouse=True, scope="module")
def registered():
    with registered_envs():
        yield


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr("envs.check.timing.SECONDS", 0.02)


def test_a_sound_environment(capsys):
    assert run_command("check-env", "fwrl/TMaze-v0", "options.corridor_length=4", "--seed", 3) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "fwrl/TMaze-v0"
    assert lines[-1] == "fwrl/TMaze-v0: keeps the contract, continues exactly"
    assert "  exact         ok      continued in a fresh instance and in a used one," in lines[11]
    shown = dict(line.split(maxsplit=1) for line in lines[12:-1])
    assert list(shown) == [
        "reading", "episodes", "speed", "step", "reset", "build", "observation", "replay",
        "workers",
    ]  # fmt: skip
    assert shown["observation"] == "16 bytes"
    assert shown["replay"] == "0 s for the longest episode seen"
    assert shown["workers"] == "would not pay"
    # the corridor is short, and with it the clock
    assert int(shown["episodes"].rpartition(" ")[2]) < 100


@pytest.mark.parametrize(
    ("env_id", "code", "verdict", "advice"),
    [
        ("PaysNaN-v0", 1, "BREAKS the contract, continues exactly", "finite: correct the"),
        ("OfItsOwnChance-v0", 1, "BREAKS the contract, does not", "self.np_random"),
        ("Remembers-v0", 0, "keeps the contract, does not continue exactly", "let reset set"),
        ("RaisesInReset-v0", 1, "BREAKS the contract", "runs: correct the environment"),
    ],
)
def test_what_was_found_and_what_helps(env_id, code, verdict, advice, capsys):
    assert run_command("check-env", env_id, "--episodes", 2) == code
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith(f"{env_id}: {verdict}")
    assert advice in out


def test_json_is_one_object(capsys):
    assert run_command("check-env", "CartPole-v1", "--json", "--steps", 60) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert captured.out.count("\n") == 1
    assert list(report) == [
        "env", "faithful", "exact", "seen", "costs", "replay_seconds", "workers_pay", "read_as",
        "findings",
    ]  # fmt: skip
    assert report["env"] == "CartPole-v1"
    assert (report["faithful"], report["exact"]) == (True, True)
    assert report["seen"]["steps"] == 60
    assert report["costs"]["observation_bytes"] == 16
    assert report["findings"][0] == {
        "name": "runs", "verdict": "ok", "what": "nothing was raised", "advice": "",
    }  # fmt: skip
    assert run_command("check-env", "RaisesInReset-v0", "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["faithful"] is False
    assert report["exact"] is report["costs"] is report["seen"] is None


def test_an_environment_of_the_present_directory(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "import gymnasium\ngymnasium.register('Mine-v0', 'contract_violations:Sound')\n"
    (tmp_path / "my_environments_to_check.py").write_text(text)
    assert run_command("check-env", "Mine-v0") == 2
    assert "no environment 'Mine-v0'" in capsys.readouterr().err
    assert run_command("check-env", "Mine-v0", "--import", "my_environments_to_check") == 0


def test_which_environment_is_meant(tmp_path, monkeypatch):
    assert find_env("pong", ["frame_stack=4"]) == AtariConfig(game="pong", frame_stack=4)
    assert find_env("ALE/Pong-v5", []) == GymnasiumConfig(id="ALE/Pong-v5")
    limit = find_env("popgym-RepeatFirstEasy-v0", ["env.max_episode_steps=9", "options.x=1"])
    assert (limit.max_episode_steps, limit.options) == (9, {"x": 1})
    # with or without the folder, from anywhere
    monkeypatch.chdir(tmp_path)
    assert find_env("configs/atari/pong.yaml", []).game == "pong"
    assert find_env("memory/t_maze_10.yaml", ["num_envs=2"]).num_envs == 2
    (tmp_path / "mine.yaml").write_text("env: {kind: atari, game: breakout}\ntotal_steps: many")
    assert find_env("mine.yaml", []).game == "breakout"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pogn"], "no environment 'pogn'; did you mean 'pong'?"),
        (["fwrl/RepeatFrist-v0"], "did you mean 'fwrl/RepeatFirst-v0'?"),
        (["CartPole-v1", "options.gravity=1"], "no option 'gravity'"),
        (["CartPole-v1", "action_mask=true"], 'gives no info["action_mask"]; set it to false'),
        (["CartPole-v1", "seed=1"], "env.seed: no such key"),
        (["os:CartPole-v1"], "asks to import code"),
        (["nowhere.yaml"], "nowhere.yaml: no such file"),
        (["empty.yaml"], "empty.yaml: has no part env"),
        (["CartPole-v1", "--steps", "1"], "greater than or equal to 2"),
    ],
)
def test_a_mistake_is_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.yaml").write_text("seed: 1")
    assert run_command("check-env", *words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "popgym", None)
    with pytest.raises(ConfigError, match=r"pip install fwrl\[pomdp\]"):
        find_env("popgym-RepeatFirstEasy-v0", [])
