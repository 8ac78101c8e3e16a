"""A save that is killed anywhere leaves a checkpoint that is found; what is saved is verified."""

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from hostile_files import honest_run
from torch import nn

from agents.saving import best_checkpoint, find_checkpoint, list_checkpoints, load_policy
from fwrl.files import checkpoint
from fwrl.files.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_optimizer,
    load_tensors,
    optimizer_tensors,
    read_document,
    save_checkpoint,
    verify_checkpoint,
)
from fwrl.run.saver import prune_checkpoints

OLD, NEW = {"steps": 1}, {"steps": 2}


class Killed(BaseException):
    """No handler of ours catches it, like a signal that cannot be caught."""


def save(folder, document):
    save_checkpoint(folder, {"policy": {"a": torch.ones(3)}}, document)


def killed_at(patch, number):
    """The process ends before the ``number``-th change of the file system."""
    calls = iter(range(1000))

    def watched(function):
        def call(*arguments, **options):
            if next(calls) == number:
                raise Killed
            return function(*arguments, **options)

        return call

    patch.setattr(checkpoint, "write_plain", watched(checkpoint.write_plain))
    patch.setattr(checkpoint, "sync_folder", watched(checkpoint.sync_folder))
    patch.setattr(Path, "mkdir", watched(Path.mkdir))
    patch.setattr(Path, "rename", watched(Path.rename))
    # after a real kill nothing cleans up
    patch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: None)


def kill_save(folder, number):
    """True if the save was killed rather than finished."""
    with pytest.MonkeyPatch.context() as patch:
        killed_at(patch, number)
        try:
            save(folder, NEW)
        except Killed:
            return True
    return False


@pytest.mark.parametrize("find", ["load", "document", "list", "last", "policy path"])
def test_a_kill_at_any_point_leaves_the_old_or_the_new_one(tmp_path, find):
    outcomes = []
    for number in range(100):
        run = tmp_path / str(number)
        folder = run / "checkpoints/5"
        save(folder, OLD)
        killed = kill_save(folder, number)
        match find:
            case "load":
                found = load_checkpoint(folder).document
            case "document":
                found = read_document(folder)
            case "list":
                found = read_document(list_checkpoints(run)[0])
            case "last":
                found = read_document(find_checkpoint(run, "last"))
            case _:
                found = read_document(find_checkpoint(folder))
        assert found in (OLD, NEW)
        verify_checkpoint(folder)
        outcomes.append(found["steps"])
        # and the next save makes everything as it should be
        save(folder, NEW)
        assert read_document(folder) == NEW
        assert [path.name for path in folder.parent.iterdir()] == ["5"]
        if not killed:
            break
    assert outcomes == sorted(outcomes)
    assert len(outcomes) > 6
    assert set(outcomes) == {1, 2}


def test_a_reader_that_puts_the_old_one_back_does_not_stop_the_writer(tmp_path, monkeypatch):
    folder = tmp_path / "5"
    save(folder, OLD)
    rename, met = Path.rename, []

    def disturbed(path, target):
        if path.name.endswith(".tmp") and not met:
            met.append(read_document(folder))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", disturbed)
    save(folder, NEW)
    assert met == [OLD]
    assert read_document(folder) == NEW
    assert [path.name for path in tmp_path.iterdir()] == ["5"]


def test_nothing_is_put_back_by_a_link(tmp_path):
    save(tmp_path / "elsewhere", OLD)
    (tmp_path / ".5.old").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "5")


def test_verification_reads_everything(tmp_path):
    folder = honest_run(tmp_path)
    verify_checkpoint(folder)
    path = folder / "generators.safetensors"
    good = path.read_bytes()
    for wrong, message in (
        (good[:-1] + bytes([good[-1] ^ 1]), "its sha256 is not the manifest's"),
        (good[:-1], f"has {len(good) - 1:,} bytes and the manifest says {len(good):,}"),
        (good + b"\0", "bytes and the manifest says"),
    ):
        path.write_bytes(wrong)
        for read in (verify_checkpoint, load_checkpoint):
            with pytest.raises(CheckpointError, match=message):
                read(folder)
        # a policy needs no generators
        load_policy(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        verify_checkpoint(folder)


def test_modes_follow_the_umask(tmp_path):
    for mask in (0o022, 0o077):
        before = os.umask(mask)
        folder = honest_run(tmp_path / str(mask))
        os.umask(before)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~mask
        for path in folder.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_numbers_that_are_not_finite_are_null(tmp_path):
    document = {"score": float("nan"), "rows": [{"a": float("inf"), "b": (1.5, -float("inf"))}]}
    save(tmp_path / "1", document)
    assert read_document(tmp_path / "1") == {"score": None, "rows": [{"a": None, "b": [1.5, None]}]}


def test_a_damaged_checkpoint_does_not_hide_the_others(tmp_path):
    for step in (4, 8, 12, 16, 24):
        honest_run(tmp_path, step)
    folders = list_checkpoints(tmp_path)[1:]
    (folders[3] / "manifest.json").write_text("{")
    assert best_checkpoint(folders).name == "16"
    assert find_checkpoint(tmp_path).name == "16"
    (folders[2] / "manifest.json").unlink()
    assert best_checkpoint(folders).name == "12"
    # two whole ones at least; the damaged stay as they are
    prune_checkpoints(tmp_path, keep=1, saved=folders[1])
    assert [path.name for path in list_checkpoints(tmp_path)] == ["8", "12", "16", "24"]
    for folder in folders[:2]:
        (folder / "manifest.json").write_text(json.dumps({"format": 3}))
    assert best_checkpoint(list_checkpoints(tmp_path)).name == "24"
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_policy(tmp_path)


def test_names_that_only_look_like_steps(tmp_path):
    honest_run(tmp_path, 8)
    for name in ("²", "٣", "-1", "1e3"):
        (tmp_path / "checkpoints" / name).mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["8"]


def test_an_optimiser_takes_only_what_belongs_to_its_parameters():
    module = nn.Linear(2, 3)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    tensors = optimizer_tensors(optimizer)
    load_optimizer(torch.optim.Adam(nn.Linear(2, 3).parameters()), tensors)
    for wrong in (
        {"7.exp_avg": torch.zeros(3)},
        {"x.exp_avg": torch.zeros(3)},
        {"exp_avg": torch.zeros(3)},
        {"0.exp_avg": torch.zeros(3)},
        {"01.exp_avg": torch.zeros(3)},
    ):
        with pytest.raises(CheckpointError, match="belongs to no parameter"):
            load_optimizer(optimizer, tensors | wrong)


def test_types_of_tensors_are_compared():
    with pytest.raises(CheckpointError, match=r"bias is of torch.float64, this policy needs"):
        load_tensors(
            nn.Linear(1, 1), {"weight": torch.ones(1, 1), "bias": torch.ones(1).double()}, "run"
        )
