"""The commands that a command prints can be typed as they are, whatever the paths in them."""

import shlex

import pytest
from command_line import InterruptAt, run_command
from saved_runs import saved_run

CONFIG = """
env: {id: fwrl/RepeatPrevious-v0, num_envs: 2}
ppo: {num_steps: 8, minibatches: 1}
stack: {width: 8}
evaluation: {every_steps: 1000, episodes: 1, num_envs: 1}
total_steps: 32
"""
NAMES = ["two words", "$(touch here)", "it's; ls", "späße & more"]


def printed(text, program):
    (line,) = [line for line in text.splitlines() if line.startswith(f"{program} ")]
    return shlex.split(line)[1:]


@pytest.fixture(params=NAMES)
def run(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / request.param


def test_after_a_training(run, capsys):
    config = run.with_suffix(".yaml")
    config.write_text(CONFIG)
    with InterruptAt(12):
        assert run_command("train", config, "--run-dir", run) == 75
    assert run_command(*printed(capsys.readouterr().out, "fwrl")) == 0
    said = capsys.readouterr().out
    assert run_command(*printed(said, "fwrl"), "--episodes", 1) == 0
    assert printed(said, "tensorboard") == ["--logdir", str(run)]


def test_after_an_export(run, capsys):
    saved_run(run)
    assert run_command("export", run, run / "a file.safetensors") == 0
    assert run_command(*printed(capsys.readouterr().out, "fwrl"), "--episodes", 1) == 0
