"""Policies in another program's hands: a step by ONNX is a step by PyTorch, resets included."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from command_line import run_command
from gymnasium import spaces
from hostile_files import honest_run
from mixed_stacks import MIXES

from agents import onnx_export
from agents.policy import PolicyConfig, RecurrentPolicy
from fwrl.config import ConfigError
from fwrl.cores import CORES

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

TESTS = Path(__file__).parents[1]
QUICK = "fast_weight", "lstm"
REFUSED = "differs", "branches", "sticky"
SPACES = "picture", "map", "ids", "continuous", "half", "double", "masked", "unequal"
OPTIONS = "exact", "convolution", "householder", "normaliser", "input gate", "window", "bfloat16"
PARTS = (
    *("frames", "frames of pictures", "hidden", "squashed", "beta"),
    *("popart", "two_hot", "own critic", "privileged critic"),
)
SLOW = *(kind for kind in CORES if kind not in QUICK), *SPACES, *OPTIONS, *PARTS, *MIXES


def run(*words):
    """A process of its own, without the tests' checks of types."""
    environment = os.environ | {"PYTHONPATH": str(TESTS.parent)}
    words = [sys.executable, *map(str, words)]
    return subprocess.run(
        words, capture_output=True, text=True, env=environment, timeout=1500, check=False
    )


@cache
def answers(names):
    ended = run(TESTS / "support/onnx_agreement.py", *names)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout)


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW)]
)
def test_five_hundred_steps_with_resets_are_the_same(name):
    found = answers(QUICK if name in QUICK else SLOW)[name]
    assert found["farthest"] < 1e-5
    # a number that turns and hardly fades adds up what cosines differ by: 2e-5 of `lru`
    assert found["farthest memory"] < 1e-4
    # one in twenty, in each of three streams, whose number was not the one that was traced
    assert found["starts"] > 40
    assert found["untouched"]
    assert found["files"] == ["policy.onnx"]


@pytest.mark.parametrize("name", QUICK)
def test_what_a_file_says_of_itself(name):
    found = answers(QUICK)[name]
    inputs, outputs = found["inputs"], found["outputs"]
    kept = ["0.hidden", "0.cell"] if name == "lstm" else ["0.weights"]
    assert list(inputs) == [
        *("observation.seen", "observation.sign", "previous_action", "previous_reward", "elapsed"),
        *(f"memory.{k}" for k in kept),
    ]
    memory = [f"next_memory.{k}" for k in kept]
    assert list(outputs) == ["log_probs", "action", "value", "environment_action", *memory]
    for k in kept:
        assert inputs[f"memory.{k}"] == outputs[f"next_memory.{k}"]
        assert inputs[f"memory.{k}"][:2] == ["tensor(float)", "batch"]
    assert {sizes[1] for sizes in (*inputs.values(), *outputs.values())} == {"batch"}
    # no operators but those of the standard
    assert found["domains"] == [""]
    assert (found["said"]["format"], found["said"]["steps"]) == (1, 7)
    assert found["said"]["policy"]["config"]["core"]["kind"] == name
    assert not found["speaks of this machine"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("differs", "value would not be what PyTorch computes"),
        ("branches", "data-dependent"),
        ("sticky", "searchsorted"),
    ],
)
def test_what_no_file_can_stand_for_is_refused_in_one_line(name, reason):
    found = answers(REFUSED)[name]
    assert found["files"] == []
    assert "\n" not in found["message"]
    kind = "infinite_former" if name == "sticky" else "fast_weight"
    assert f"(core.kind={kind}) cannot be written as ONNX" in found["message"]
    assert reason in found["message"]


def test_the_command(tmp_path):
    honest_run(tmp_path / "run")
    file = tmp_path / "policies" / "mine.onnx"
    ended = run("-m", "fwrl", "export", tmp_path / "run", file, "--onnx")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"{tmp_path}/run/checkpoints/16 is now {file}\n"
    assert [path.name for path in file.parent.iterdir()] == ["mine.onnx"]


def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys):
    def complaint(*words):
        assert run_command("export", tmp_path / "run", *words) == 2
        captured = capsys.readouterr()
        assert (captured.out, captured.err.count("\n")) == ("", 1)
        return captured.err

    honest_run(tmp_path / "run")
    file = tmp_path / "a.onnx"
    assert "use a.onnx" in complaint(tmp_path / "a.safetensors", "--onnx")
    assert "use a.safetensors or a.onnx" in complaint(tmp_path / "a.pt")
    file.write_text("mine")
    assert "is there already" in complaint(file)
    with monkeypatch.context() as patch:
        patch.setattr(onnx_export, "find_spec", lambda name: None if name == "onnx" else name)
        assert "ONNX files need onnx; `pip install 'fwrl[onnx]'`" in complaint(file, "--force")
    with monkeypatch.context() as patch:
        patch.setattr(onnx_export, "LARGEST", onnx_export.BESIDE_PARAMETERS + 1000)
        assert "bytes, and an ONNX file at most" in complaint(file, "--force")

    def fail(*_, **__):
        raise torch.onnx.OnnxExporterError("pages of advice") from RuntimeError("no\nsuch thing")

    with monkeypatch.context() as patch:
        patch.setattr(torch.onnx, "export", fail)
        assert "cannot be written as ONNX: no\n" in complaint(file, "--force")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.onnx"]
    assert file.read_text() == "mine"


def test_two_leaves_of_one_name_are_refused(tmp_path):
    part = spaces.Box(-1, 1, (2,))
    space = spaces.Dict({"a": spaces.Dict({"b": part}), "a.b": part})
    policy = RecurrentPolicy(space, spaces.Discrete(2), PolicyConfig())
    with pytest.raises(ConfigError, match=r"observation\.a\.b twice"):
        onnx_export.export_onnx(tmp_path / "a.onnx", policy.eval(), {})
