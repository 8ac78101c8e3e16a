"""Trainings and agents from a program: the same numbers, files and refusals as by commands."""

import re
import threading
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from command_line import InterruptAt, run_command
from gymnasium.spaces import Discrete
from markdown_pages import ROOT, titled_files

import fwrl
from agents.saving import load_policy
from fwrl.config import ConfigError, OneLineError
from fwrl.python.environments import id_of
from fwrl.run.config import load_run_config
from fwrl.run.table import read_table

SHORT = {
    "total_steps": 256,
    "env.num_envs": 4,
    "ppo.num_steps": 16,
    "stack.width": 32,
    "core.heads": 1,
    "evaluation": {"every_steps": 128, "episodes": 4, "num_envs": 2},
}
WORDS = [
    "total_steps=256",
    "env.num_envs=4",
    "ppo.num_steps=16",
    "stack.width=32",
    "core.heads=1",
    "evaluation.every_steps=128",
    "evaluation.episodes=4",
    "evaluation.num_envs=2",
]


class Named(gymnasium.Env):
    """Shows a colour once; three steps later it has to be named."""

    observation_space, action_space = Discrete(5), Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.colour = 0, int(self.np_random.integers(4))
        return self.colour, {}

    def step(self, action):
        self.time += 1
        last = self.time == 4
        return 4, float(last and action == self.colour), last, False, {}


def a_function():
    return Named()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = dict(gymnasium.registry)
    gymnasium.register("Named-v0", Named)
    yield tmp_path
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


def numbers(directory):
    """All that a training has computed: its metrics without times, and its policy."""
    table = read_table(Path(directory))
    curves = {name: curve for name, curve in table.items() if not name.startswith("time/")}
    curves.pop("health/save_s")
    return curves, load_policy(directory, "last").state_dict()


def check_same(one, other):
    (curves, weights), (others, their_weights) = numbers(one), numbers(other)
    assert curves.keys() == others.keys()
    for name, curve in curves.items():
        assert np.array_equal(curve, others[name], equal_nan=True), name
    assert weights.keys() == their_weights.keys()
    assert all(torch.equal(weights[name], their_weights[name]) for name in weights)


@pytest.fixture(scope="module")
def by_command(tmp_path_factory):
    """The directory of a training by the command."""
    folder = tmp_path_factory.mktemp("by_command")
    file, run = folder / "named.yaml", folder / "run"
    file.write_text("env: {id: Named-v0}\ntotal_steps: 1\n")
    gymnasium.register("Named-v0", Named)
    assert run_command("train", file, *WORDS, "--run-dir", run) == 0
    gymnasium.registry.pop("Named-v0")
    return run


def whatever_can_be_trained():
    Path("here.yaml").write_text("env: {id: Named-v0}\ntotal_steps: 1\n")
    config = load_run_config("here.yaml", ["seed=0"])
    return [a_function, Named, "Named-v0", "here.yaml", Path("here.yaml"), config]


@pytest.mark.parametrize("which", range(6))
def test_it_is_the_training_of_the_command_bit_for_bit(which, by_command):
    overrides = WORDS if which % 2 else SHORT
    run = fwrl.train(whatever_can_be_trained()[which], overrides)
    assert run.finished
    check_same(run.directory, by_command)
    assert run.config.total_steps == 256
    assert run.metrics["step"][-1] == 256


def test_it_goes_into_the_directory_of_the_command():
    Path("named.yaml").write_text("env: {id: Named-v0}\ntotal_steps: 1\n")
    changes = {
        "core": {"kind": "gru"},
        "encoder.previous_reward": False,
        "ppo.target_kl": None,
        "ppo.learning_rate": 3e-5,
        "ppo.max_grad_norm": 0.25,
        "device": "cpu",
    } | {key: value for key, value in SHORT.items() if key != "core.heads"}
    words = [
        "core.kind=gru",
        "encoder.previous_reward=false",
        "ppo.target_kl=null",
        "ppo.learning_rate=3e-05",
        "ppo.max_grad_norm=0.25",
        "device=cpu",
        *(word for word in WORDS if not word.startswith("core.heads")),
    ]
    run = fwrl.train("named.yaml", changes)
    assert run_command("train", "named.yaml", *words) == 0
    assert [path.name for path in Path("runs").iterdir()] == [run.directory.name]


@pytest.mark.parametrize("text", ["lstm", "1e-3", "true", "null", "[1, 2]", "3", "a: b", "'", ""])
def test_texts_stay_texts(text):
    with pytest.raises(ConfigError) as error:
        fwrl.train("Named-v0", {**SHORT, "device": text})
    assert str(error.value).startswith(f"device is {text!r}; ")


def test_a_training_that_was_stopped_goes_on_bit_for_bit(by_command):
    seen = []

    def look(iteration):
        seen.append(iteration.steps)
        torch.rand(3)
        return iteration.steps < 128

    stopped = fwrl.train(a_function, SHORT, on_iteration=look)
    assert not stopped.finished
    assert stopped.metrics["step"][-1] == 128
    finished = fwrl.train(a_function, SHORT)
    assert finished.finished
    assert finished.directory == stopped.directory
    assert seen == [64, 128]
    check_same(finished.directory, by_command)


def test_an_interruption_saves_and_returns(by_command):
    with InterruptAt(20):
        assert not fwrl.train(a_function, SHORT).finished
    assert fwrl.train(a_function, SHORT).finished
    check_same(fwrl.train(a_function, SHORT).directory, by_command)


def test_each_iteration_is_seen_with_the_numbers_of_the_table():
    seen = []
    run = fwrl.train(a_function, SHORT, on_iteration=seen.append)
    table = run.metrics
    assert [each.steps for each in seen] == table["step"].tolist() == [64, 128, 192, 256]
    for row, each in enumerate(seen):
        told = {name: curve[row] for name, curve in table.items() if not np.isnan(curve[row])}
        told.pop("step")
        finite = {name: value for name, value in each.metrics.items() if not np.isnan(value)}
        assert finite == pytest.approx(told)
    assert seen[-1].policy.stack.input_size == 32


def test_looking_at_random_changes_nothing(by_command):
    run = fwrl.train(a_function, SHORT, on_iteration=lambda _: torch.randn(5))
    check_same(run.directory, by_command)


def test_fresh_sets_aside_what_was_there():
    first = fwrl.train(a_function, SHORT)
    again = fwrl.train(a_function, SHORT | {"seed": 1}, run_dir=first.directory, fresh=True)
    assert again.directory == first.directory
    assert len([path for path in Path("runs").iterdir() if path.is_dir()]) == 2
    assert load_run_config(first.directory / "config.yaml").seed == 1


def test_another_thread_may_train():
    found = []
    thread = threading.Thread(target=lambda: found.append(fwrl.train(a_function, SHORT)))
    thread.start()
    thread.join()
    assert found[0].finished


WRONG = {
    "no steps": (lambda: fwrl.train("Named-v0"), "total_steps: missing; it must be given"),
    "no such id": (lambda: fwrl.train("Nmed-v0", SHORT), "'Nmed-v0'; did you mean 'Named-v0'"),
    "no such file": (lambda: fwrl.train("nothing.yaml"), "nothing.yaml: no such file"),
    "another file": (lambda: fwrl.train(Path("a.json")), "a.json: not a configuration"),
    "one text": (lambda: fwrl.train("Named-v0", "seed=1"), "overrides is 'seed=1'; it should be"),
    "an object": (lambda: fwrl.train("Named-v0", {"seed": Named}), "seed is a type; it should be"),
    "a key": (lambda: fwrl.train("Named-v0", {"sed": 1}), "sed: no such key; did you mean 'seed'"),
    "no run": (lambda: fwrl.load("nowhere"), "nowhere"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_told_in_one_line(name):
    call, words = WRONG[name]
    with pytest.raises(OneLineError) as error:
        call()
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not Path("runs").exists()


def test_a_training_that_cannot_go_on_raises():
    class Broken(Named):
        def step(self, action):
            raise OSError("no simulator")

    with pytest.raises(RuntimeError, match="could not go on"):
        fwrl.train(Broken, SHORT)


@pytest.fixture
def run():
    return fwrl.train(a_function, SHORT)


def test_commands_refuse_the_environment_of_a_function(run, capsys):
    gymnasium.registry.pop(id_of(a_function))
    words = "'python/a_function-v0' is made by a function of a Python program; give it there"
    config = run.directory / "config.yaml"
    for command in (
        ("evaluate", run.directory),
        ("inspect", run.directory),
        ("train", config, "total_steps=512", "--run-dir", run.directory),
    ):
        assert run_command(*command) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    assert run_command("export", run.directory, "policy.safetensors") == 0
    for path in (run.directory, "policy.safetensors"):
        gymnasium.registry.pop(id_of(a_function), None)
        assert fwrl.load(path, env=Named).evaluate(4)["episodes"] == 4


def test_an_agent_does_what_the_commands_do(run, capsys):
    agent = run.agent()
    evaluated = agent.evaluate(6, seed=3)
    assert run_command("evaluate", run.directory, "--episodes", "6", "--seed", "3") == 0
    assert f"mean {evaluated['return_mean']:.4g} " in capsys.readouterr().out
    page = agent.inspect("page.html")
    assert "recall" in page.read_text()
    assert agent.inspect().parent == run.directory
    file = agent.export("policy.safetensors")
    again = fwrl.load(file)
    weights = agent.policy.state_dict()
    assert all(torch.equal(weights[name], w) for name, w in again.policy.state_dict().items())
    with pytest.raises(ConfigError, match="is there already"):
        agent.export(file)
    assert agent.export(file, force=True) == file


def test_an_agent_plays_the_episodes_of_its_evaluation(run):
    agent, env, rewards = run.agent("last"), Named(), []
    for seed in (3, 4):
        observation, _ = env.reset(seed=seed)
        state, reward, ended = None, None, False
        while not ended:
            action, state = agent.predict(
                observation, state, deterministic=True, previous_reward=reward
            )
            observation, reward, ended, *_ = env.step(action)
        rewards.append(reward)
    assert agent.evaluate(2, seed=3)["return_mean"] == np.mean(rewards)


def test_no_function_replaces_an_environment_of_gymnasium():
    run = fwrl.train("Named-v0", SHORT)
    with pytest.raises(ConfigError, match="was trained in 'Named-v0', of no program"):
        fwrl.load(run.directory, env=a_function)
    assert gymnasium.registry["Named-v0"].entry_point is Named


def test_a_film_is_written_where_the_environment_draws():
    run = fwrl.train("CartPole-v1", SHORT | {"env.max_episode_steps": 12})
    film = run.agent().video("films")
    assert film.parent == Path("films")
    assert film.stat().st_size > 1000
    with pytest.raises(ConfigError, match="draws no pictures"):
        fwrl.train(a_function, SHORT).agent().video("films")


PAGE = titled_files(ROOT / "docs/python.md")["remember.py"]


def test_the_program_of_the_page_is_twenty_lines_and_runs(monkeypatch, capsys):
    code = [line for line in PAGE.splitlines() if line.strip()]
    assert len(code) <= 20
    shorter = PAGE.replace("60_000", "600").replace("episodes=100", "episodes=4")
    assert shorter != PAGE
    exec(compile(shorter, "remember.py", "exec"), {})
    out = capsys.readouterr().out
    assert re.search(r"^return [\d.]+$", out, re.MULTILINE)
    assert Path(re.search(r"did: (.+)$", out, re.MULTILINE)[1]).is_file()


@pytest.mark.slow
@pytest.mark.learns
def test_the_program_of_the_page_learns_as_the_command_does(capsys):
    exec(compile(PAGE, "remember.py", "exec"), {})
    found = float(re.search(r"^return ([\d.]+)$", capsys.readouterr().out, re.MULTILINE)[1])
    words = ["total_steps=60000", "env.num_envs=32", "ppo.num_steps=36"]
    Path("named.yaml").write_text("env: {id: Named-v0}\ntotal_steps: 1\n")
    assert run_command("train", "named.yaml", *words, "--run-dir", "by_command") == 0
    (run,) = Path("runs").iterdir()
    check_same(run, "by_command")
    assert found > 0.95
