"""A policy as one file: the same policy, whole or not at all, refused where it is not one."""

import json
import os
import stat
import sys
from pathlib import Path

import pytest
import torch
from hostile_files import honest_file, honest_policy, honest_run

from agents import saving
from agents.policy import PolicyInput
from agents.saving import load_policy, read_exported
from fwrl.cli import main
from fwrl.files.checkpoint import CheckpointError
from fwrl.files.plain_files import FileError
from fwrl.files.tensor_files import from_bytes, to_bytes
from fwrl.run.evaluation import Request, evaluate_run


def fwrl(monkeypatch, capsys, *words):
    """Exit code, standard output and standard error of a command."""
    monkeypatch.setattr(sys, "argv", ["fwrl", *map(str, words)])
    with pytest.raises(SystemExit) as leave:
        main()
    captured = capsys.readouterr()
    return leave.value.code, captured.out, captured.err


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    honest_run(Path("run"))
    return Path("run")


def numbers(result):
    return {key: value for key, value in result.items() if key != "checkpoint"}


def test_an_exported_policy_is_evaluated_as_the_run_is(run, monkeypatch, capsys):
    code, out, _ = fwrl(monkeypatch, capsys, "export", run, "policies/mine.safetensors")
    assert code == 0
    assert "fwrl evaluate policies/mine.safetensors" in out
    words = ("--episodes", "5", "--seed", "3", "--json", "--stochastic")
    code, out, _ = fwrl(monkeypatch, capsys, "evaluate", run, *words)
    original = json.loads(out)
    code, out, _ = fwrl(monkeypatch, capsys, "evaluate", "policies/mine.safetensors", *words)
    assert code == 0
    exported = json.loads(out)
    assert numbers(exported) == numbers(original)
    assert exported["steps"] == 16
    assert [path.name for path in Path("policies").iterdir()] == ["mine.safetensors"]
    code, out, _ = fwrl(monkeypatch, capsys, "evaluate", "policies/mine.safetensors")
    assert "not written anywhere: an exported file has no run directory" in out


def test_an_exported_policy_acts_as_it_did(tmp_path):
    path = tmp_path / "policy.safetensors"
    honest_file(path)
    inputs = PolicyInput(
        torch.tensor([3]), torch.tensor([[1]]), torch.tensor([0.5]), torch.tensor([4])
    )
    outputs = [
        policy.step(inputs, policy.initial_state(1))[0]
        for policy in (honest_policy(), load_policy(path), load_policy(str(path), "last"))
    ]
    assert torch.equal(outputs[0].action.log_probs, outputs[1].action.log_probs)
    assert torch.equal(outputs[0].value, outputs[2].value)


def test_the_checkpoint_that_is_asked_for(run, monkeypatch, capsys):
    honest_run(run, 8)
    for which, steps in (("8", 8), ("best", 16), ("last", 16), ("run/checkpoints/8", 8)):
        words = ("export", run, f"{steps}.safetensors", "--checkpoint", which, "--force")
        assert fwrl(monkeypatch, capsys, *words)[0] == 0
        assert read_exported(Path(f"{steps}.safetensors"))["steps"] == steps


def test_mistakes_are_one_line(run, monkeypatch, capsys):
    def complaint(*words):
        code, out, err = fwrl(monkeypatch, capsys, *words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        return err

    assert "use policy.safetensors" in complaint("export", run, "policy.pt")
    assert "no such run directory" in complaint("export", "nowhere", "a.safetensors")
    assert "no checkpoint '7'" in complaint("export", run, "a.safetensors", "--checkpoint", "7")
    Path("a.safetensors").write_text("mine")
    assert "is there already" in complaint("export", run, "a.safetensors")
    assert Path("a.safetensors").read_text() == "mine"
    assert "made a folder" in complaint("export", run, "a.safetensors/b.safetensors")
    assert "not a safetensors file" in complaint("evaluate", "a.safetensors")
    assert "no such file" in complaint("evaluate", "b.safetensors")
    assert fwrl(monkeypatch, capsys, "export", run, "a.safetensors", "--force")[0] == 0
    assert read_exported(Path("a.safetensors"))["score"] == 1.6


def test_a_failed_export_leaves_what_was_there(run, monkeypatch):
    path = Path("a.safetensors")
    honest_file(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FileError, match=r"cannot be written .No space"):
        honest_file(path)
    assert path.read_bytes() == before
    assert sorted(each.name for each in Path().iterdir()) == ["a.safetensors", "run"]


def test_the_mode_follows_the_umask(tmp_path):
    for mask in (0o022, 0o077):
        before = os.umask(mask)
        honest_file(tmp_path / f"{mask}.safetensors")
        os.umask(before)
        mode = stat.S_IMODE((tmp_path / f"{mask}.safetensors").stat().st_mode)
        assert mode == 0o666 & ~mask


def altered(path, change):
    """The file with another document, whose sha256 is right."""
    tensors, header = from_bytes(path.read_bytes(), path)
    document = json.loads(header.metadata["fwrl"])
    change(document, tensors)
    text = json.dumps(document)
    metadata = {"fwrl": text, "sha256": saving._digest(text, tensors)}
    path.write_bytes(to_bytes(tensors, metadata))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda document, _: document.update(format=2),
            "in format 2; this version of fwrl reads 1",
        ),
        (lambda document, _: document.pop("policy"), "describes no policy"),
        (lambda document, _: document["policy"]["config"]["stack"].update(width=16), "has shape"),
        (lambda _, tensors: tensors.update(more=torch.zeros(1)), "more is unknown here"),
        (lambda _, tensors: tensors.update({"value.bias": torch.zeros(1).double()}), "float64"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path, change, message):
    path = tmp_path / "policy.safetensors"
    honest_file(path)
    altered(path, change)
    with pytest.raises(CheckpointError, match=message):
        load_policy(path)


def test_a_run_that_cannot_be_is_said(tmp_path):
    path = tmp_path / "policy.safetensors"
    honest_file(path)
    altered(path, lambda document, _: document["run"].update(seed=-1))
    load_policy(path)
    with pytest.raises(CheckpointError, match="seed is -1"):
        evaluate_run(path, Request(1))
    altered(path, lambda document, _: document.update(run={"env": {"id": "os:system"}}))
    with pytest.raises(CheckpointError, match="--import MODULE"):
        evaluate_run(path, Request(1))


def test_one_wrong_bit_is_noticed(tmp_path):
    path = tmp_path / "policy.safetensors"
    honest_file(path)
    good = path.read_bytes()
    for place in (-1, -500, -1500):
        wrong = bytearray(good)
        wrong[place] ^= 1
        path.write_bytes(wrong)
        with pytest.raises(CheckpointError, match="damaged"):
            load_policy(path)
