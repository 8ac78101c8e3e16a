"""``--import``: the one way to environments of one's own, and only from the command line."""

import json
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from fwrl.cli import main
from fwrl.run import neighbours
from fwrl.run.modules import OURS

MODULE = """
import gymnasium
import numpy as np

class Coin(gymnasium.Env):
    observation_space = gymnasium.spaces.Discrete(2)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.show(), {}

    def step(self, action):
        self.time += 1
        return self.show(), float(action == self.time % 2), self.time == 4, False, {}

    def show(self):
        return np.int64(self.time % 2)

gymnasium.register("Coin-v0", CREATOR)
"""
ENCODER = """
from torch import nn
from agents.encoders import register_encoder

class Rows(nn.Embedding):
    output_size = 7

register_encoder("rows", lambda space: Rows(space.n, 7))
"""
CONFIG = """
env: {id: Coin-v0, num_envs: 4}
stack: {width: 8}
ppo: {num_steps: 8, minibatches: 2}
evaluation: {every_steps: 32, episodes: 2, num_envs: 2}
total_steps: 32
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "coins.py").write_text(MODULE.replace("CREATOR", "Coin"))
    (tmp_path / "by_name.py").write_text(MODULE.replace("CREATOR", '"by_name:Coin"'))
    (tmp_path / "encodes.py").write_text(ENCODER)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "leaves.py").write_text("import sys; sys.exit(0)\n")
    (tmp_path / "random.py").write_text("raise SystemExit('taken for the library')\n")
    (tmp_path / "coin.yaml").write_text(CONFIG)
    return tmp_path


def fwrl(folder, *words):
    """A process of its own, as the installed command starts: without the present directory."""
    start = "import sys; sys.path.remove(''); from fwrl.cli import main; main()"
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", start, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_module_registers_environments_also_in_workers(folder):
    words = ("coin.yaml", "env.workers=1", "--import", "by_name", "--run-dir", "run")
    trained = fwrl(folder, "train", *words)
    assert trained.returncode == 0, trained.stderr


def test_an_imported_module_serves_every_command(folder):
    words = ("coin.yaml", "env.workers=1", "--import", "coins")
    trained = fwrl(folder, "train", *words)
    assert trained.returncode == 0, trained.stderr
    evaluated = fwrl(
        folder, "evaluate", "runs/coin__env.workers=1", "--import", "coins", "--json",
        "--episodes", "2",
    )  # fmt: skip
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(evaluated.stdout)["length_mean"] == 4
    # what the training says in the end is what was typed here
    assert "fwrl evaluate runs/coin__env.workers=1 --import coins\n" in trained.stdout
    inspected = fwrl(folder, "inspect", "runs/coin__env.workers=1", "--import", "coins")
    assert inspected.returncode == 0, inspected.stderr


def test_an_encoder_of_ones_own_is_named_where_its_module_is_imported(folder):
    words = ("--import", "coins", "--import", "encodes")
    options = ("encoder.registered=rows", "--run-dir", "run")
    trained = fwrl(folder, "train", "coin.yaml", *words, *options)
    assert trained.returncode == 0, trained.stderr
    assert "reads 7 features by Rows" in trained.stdout
    evaluated = fwrl(folder, "evaluate", "run", *words, "--episodes", "2")
    assert evaluated.returncode == 0, evaluated.stderr
    without = fwrl(folder, "evaluate", "run", "--import", "coins")
    assert without.returncode != 0
    assert "encoder.registered is 'rows'" in without.stderr
    assert without.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("coin.yaml",), "no environment 'Coin-v0'"),
        (("coin.yaml", "env.id=coins:Coin-v0"), "say `--import MODULE` in the command"),
        (("coin.yaml", "--import", "nowhere"), "--import nowhere: ModuleNotFoundError: No module"),
        (("coin.yaml", "--import", "broken"), "--import broken: ZeroDivisionError: division by"),
        (("coin.yaml", "--import", "leaves"), "--import leaves: SystemExit: 0"),
        (
            ("coin.yaml", "--import", "coins.py"),
            "should be the name of the module, coins",
        ),
        (("coin.yaml", "--import", "../coins"), "--import is '../coins'; it should be the name"),
        (("coin.yaml", "--import", "envs"), "--import is 'envs', a package of fwrl; give yours"),
        (("coin.yaml", "--import", "agents.mine"), "--import is 'agents.mine', a package of fwrl"),
        (("coin.yaml", "--import", "fwrl"), "--import is 'fwrl', a package of fwrl"),
        (("coin.yaml", "--import", "random"), "random.py; give yours another name"),
        (("coin.yaml", "--import", ""), "--import is ''"),
        (("coin.yaml", "import=coins"), "import: no such key"),
    ],
)
def test_mistakes_are_one_line(folder, words, message, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["fwrl", "train", *words])
    with pytest.raises(SystemExit) as leave:
        main()
    error = capsys.readouterr().err
    assert leave.value.code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("name", ["agents", "envs"])
@pytest.mark.parametrize("kind", ["module", "package"])
def test_a_script_beside_a_module_of_our_name_is_told(name, kind, tmp_path):
    file = tmp_path / (f"{name}.py" if kind == "module" else f"{name}/__init__.py")
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine = 1\n")
    (tmp_path / "script.py").write_text("from fwrl.cli import main\nmain()\n")
    root = {"PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(
        [sys.executable, tmp_path / "script.py", "list", "rules"],
        env=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"fwrl: cannot start: {file} is found in place of fwrl's package {name!r}; "
        "give it another name, or start from another folder\n"
    )


@pytest.mark.parametrize("name", neighbours.NEIGHBOURS)
def test_a_distribution_that_has_overwritten_ours_is_named(name, tmp_path, monkeypatch):
    for each in neighbours.NEIGHBOURS:
        (tmp_path / each).mkdir()
        text = "from .agent import Agent" if each == name else '"""Something of fwrl."""'
        (tmp_path / each / "__init__.py").write_text(f"{text}\n")
    spec = {each: ModuleSpec(each, None, origin=f"{tmp_path}/{each}/__init__.py") for each in OURS}
    monkeypatch.setattr(neighbours, "HOME", tmp_path)
    monkeypatch.setattr(neighbours, "find_spec", spec.get)
    monkeypatch.setattr(neighbours, "packages_distributions", lambda: {name: ["fwrl", "theirs"]})
    with pytest.raises(neighbours.NameTakenError, match="was overwritten by theirs, which has a"):
        neighbours.check_neighbours()
