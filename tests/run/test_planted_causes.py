"""Trainings that are broken on purpose name the cause; trainings that learn say nothing."""

import json

import pytest
from command_line import run_command

# short trainings of one process, again and again
pytestmark = [pytest.mark.slow, pytest.mark.unchecked]

QUICK = "configs/quickstart.yaml"
EASY, MAZE = "configs/memory/repeat_previous_easy.yaml", "configs/memory/t_maze_10.yaml"
# The first training of each cause is one whose curves set the thresholds, the second is not.
BROKEN = {
    "rate too high": ([QUICK, "ppo.learning_rate=0.05"], [EASY, "ppo.learning_rate=0.1", "seed=1"]),
    "rate too low": ([QUICK, "ppo.learning_rate=1e-6"], [MAZE, "ppo.learning_rate=1e-7", "seed=1"]),
    "rewards too large": (
        [QUICK, "reward.scale=1e5"],
        [EASY, "critic.head=linear", "reward.scale=1e7", "seed=1"],
    ),
    "no time limit": (["endless.yaml"], ["endless.yaml", "core.kind=gru", "seed=1"]),
    "rollout too short": (
        ["configs/memory/repeat_previous_medium.yaml", "ppo.num_steps=4"],
        ["configs/memory/autoencode_easy.yaml", "ppo.num_steps=8", "seed=1"],
    ),
    "discount too short": (
        [MAZE, "ppo.discount=0.5"],
        ["configs/memory/t_maze_bakker.yaml", "ppo.discount=0.5", "seed=1"],
    ),
    "critic dead": ([QUICK, "ppo.value_weight=0"], [EASY, "ppo.value_weight=0", "seed=1"]),
    "observation without information": (["blind.yaml"], ["blind.yaml", "core.kind=gru", "seed=1"]),
}
OFTEN = ["total_steps=60000", "evaluation.every_steps=15000"]
HEALTHY = {
    "quick start": [QUICK],
    "repeat previous": [EASY, "total_steps=300000"],
    "t-maze": [MAZE, "total_steps=200000"],
    "cart": ["cart.yaml"],
    # not used for the thresholds
    "first card": ["configs/memory/repeat_first_easy.yaml", "total_steps=200000", "seed=1"],
    "cart, other memory": ["cart.yaml", "core.kind=gru", "seed=1"],
}
FILES = {
    "endless.yaml": "env: {id: Endless-v0}\ntotal_steps: 30000\n"
    "evaluation: {every_steps: 100000, episodes: 1}\n",
    "blind.yaml": "env: {id: Blind-v0, num_envs: 16}\ntotal_steps: 60000\n"
    "evaluation: {every_steps: 15000}\n",
    "cart.yaml": "env: {id: CartPole-v1, num_envs: 16}\nreward: {normalise: true}\n"
    "total_steps: 100000\nevaluation: {every_steps: 25000}\n",
}


def findings(words, tmp_path, capsys, control=()):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    config, *overrides = words
    config = tmp_path / config if config in FILES else config
    run = tmp_path / "run"
    words = [config, *overrides, "--run-dir", run, "--import", "planted_envs"]
    assert run_command("train", *words) == 0
    if control:
        other = tmp_path / "control"
        again = [config, *overrides, *control, "--run-dir", other, "--import", "planted_envs"]
        assert run_command("train", *again) == 0
        control = ["--control", other]
    capsys.readouterr()
    assert run_command("diagnose", run, "--json", *control) == 0
    return [each["name"] for each in json.loads(capsys.readouterr().out)["findings"]]


@pytest.mark.parametrize("unseen", [False, True])
@pytest.mark.parametrize("cause", BROKEN)
def test_a_planted_cause_is_named_first(cause, unseen, tmp_path, capsys):
    words = BROKEN[cause][unseen]
    often = [] if words[0] in FILES else OFTEN
    assert findings([*words, *often], tmp_path, capsys)[0] == cause


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_is_silent(name, tmp_path, capsys):
    assert findings(HEALTHY[name], tmp_path, capsys) == []


def test_a_control_that_does_as_well_is_told(tmp_path, capsys):
    found = findings(["cart.yaml"], tmp_path, capsys, control=["core.kind=none"])
    assert found == ["memory not needed"]
