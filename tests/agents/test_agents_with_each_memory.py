"""Every memory serves an agent: trained, saved and loaded from the command line."""

import json
import sys
from pathlib import Path

import pytest
from mixed_stacks import MIXES, override_of

from fwrl.cli import main
from fwrl.cores import CORES

QUICKSTART = Path(__file__).parents[2] / "configs/quickstart.yaml"
SMALL = (
    "env.num_envs=4",
    "ppo.num_steps=30",
    "stack.width=16",
    "total_steps=120",
    "evaluation.every_steps=240",
    "evaluation.episodes=4",
)


def fwrl(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["fwrl", *map(str, words)])
    with pytest.raises(SystemExit) as leave:
        main()
    return leave.value.code


def marked(kind):
    """One of each sort of state by default; the others, which differ in less, are slow."""
    quick = "fast_weight", "hybrid", "lstm", "mlstm", "none", "s5", next(iter(MIXES))
    return pytest.param(kind, marks=() if kind in quick else pytest.mark.slow)


# the shapes of each are checked by the tests of the contract
@pytest.mark.unchecked
@pytest.mark.parametrize("kind", [marked(kind) for kind in (*sorted(CORES), *MIXES)])
def test_the_quick_start_runs_with_every_memory(kind, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    memory = override_of(kind) if kind in MIXES else f"core.kind={kind}"
    train = ("train", QUICKSTART, "--run-dir", "run", memory, *SMALL)
    assert fwrl(monkeypatch, *train) == 0
    # the same command, with more to do, goes on from the saved memory
    assert fwrl(monkeypatch, *train, "total_steps=240") == 0
    capsys.readouterr()
    last = ("evaluate", "run", "--checkpoint", "last", "--episodes", 4, "--json")
    assert fwrl(monkeypatch, *last) == 0
    shown = json.loads(capsys.readouterr().out)
    name = "+".join(each.kind for each in MIXES[kind]) if kind in MIXES else kind
    assert (shown["core"], shown["steps"], shown["episodes"]) == (name, 240, 4)
