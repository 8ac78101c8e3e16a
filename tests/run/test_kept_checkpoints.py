"""Which checkpoints stay, whatever else lies in their folder."""

import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from hostile_files import RUN, honest_policy, honest_run
from hypothesis import given
from hypothesis import strategies as st

from agents.saving import find_checkpoint, list_checkpoints
from fwrl.config import validate
from fwrl.files.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from fwrl.run import saver as saving
from fwrl.run.config import RunConfig
from fwrl.run.saver import Saver, newest_checkpoint, prune_checkpoints

# the shapes are those of other tests
pytestmark = pytest.mark.unchecked


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def whole(checkpoints, step):
    honest_run(checkpoints.parent, step)


def damaged(name, how):
    def make(checkpoints, step):
        how(honest_run(checkpoints.parent, step) / name)

    return make


def copy_of_another(checkpoints, step):
    honest_run(checkpoints.parent / "other", step + 1)
    shutil.copytree(checkpoints.parent / f"other/checkpoints/{step + 1}", checkpoints / str(step))


def link_to_another(checkpoints, step):
    (checkpoints / str(step)).symlink_to(honest_run(checkpoints.parent / "other", step))


ENTRIES = {
    "whole": whole,
    "manifest cut": damaged("manifest.json", lambda path: os.truncate(path, 9)),
    "manifest gone": damaged("manifest.json", Path.unlink),
    "tensors flipped": damaged("policy.safetensors", flip),
    "tensors gone": damaged("policy.safetensors", Path.unlink),
    "copy": copy_of_another,
    "link": link_to_another,
    "link to nothing": lambda folder, step: (folder / str(step)).symlink_to("nowhere"),
    "file": lambda folder, step: (folder / str(step)).write_text("mine"),
    "folder": lambda folder, step: (folder / str(step) / "mine").mkdir(parents=True),
    "file for a temporary": lambda folder, step: (folder / f".{step}.tmp").write_text("x"),
    "link for an old one": lambda folder, step: (folder / f".{step}.old").symlink_to("nowhere"),
}
STRANGERS = {"copy", "link", "link to nothing", "file", "folder"}
STEPS = st.sampled_from([0, 5, 8, 9, 16, 20, 100, 1024, 4096])


def saver_of(run, keep=1):
    config = validate(RunConfig, RUN | {"checkpoint": {"keep": keep}})
    log, said = SimpleNamespace(positions=dict), []
    return Saver(run, config, honest_policy(), log, said.append), said


def save(saver, step, score):
    tensors = {"policy": honest_policy().state_dict(), "process": {"a": torch.tensor([step])}}
    document = {"counters": {"steps": step}, "score": score}
    with mock.patch.object(saving, "capture", return_value=lambda: Checkpoint(tensors, document)):
        saver.reached(None)
    return saver.save()


def loads(folder):
    try:
        return load_checkpoint(folder)
    except CheckpointError:
        return None


@given(
    st.dictionaries(STEPS, st.sampled_from(sorted(ENTRIES)), max_size=6),
    st.lists(st.tuples(STEPS, st.sampled_from([None, -1.0, 0.5, 99.0])), min_size=1, max_size=4),
)
def test_what_is_announced_as_saved_is_there(entries, saves):
    with tempfile.TemporaryDirectory() as place, mock.patch.object(os, "fsync", return_value=None):
        run = Path(place, "run")
        checkpoints = run / "checkpoints"
        checkpoints.mkdir(parents=True)
        for step, kind in entries.items():
            ENTRIES[kind](checkpoints, step)
        before = {
            path.lstat().st_ino: (step, kind)
            for step, kind in entries.items()
            if os.path.lexists(path := checkpoints / str(step))
        }
        saver, said = saver_of(run)
        for step, score in saves:
            most = sum(loads(folder) is not None for folder in list_checkpoints(run))
            assert save(saver, step, score), said
            content = load_checkpoint(checkpoints / str(step))
            assert content.tensors["process.0"]["a"].item() == step
            assert len([f for f in list_checkpoints(run) if loads(f)]) >= min(2, most)
        newest = newest_checkpoint(run, said.append)
        assert newest.document["counters"]["steps"] >= step
        # nothing of a stranger is deleted, and no damaged one but for a new one of its step
        left = {path.lstat().st_ino for path in checkpoints.iterdir()}
        written = {step for step, _ in saves}
        for inode, (step, kind) in before.items():
            if kind in STRANGERS or (kind != "whole" and step not in written):
                assert inode in left, (step, kind)
            if kind in STRANGERS and step in written:
                assert any(f"checkpoints/{step}: not a checkpoint of this run" in s for s in said)


def test_the_new_one_stays_though_damaged_ones_look_newer(tmp_path):
    for step in (100, 200, 300):
        honest_run(tmp_path, step)
    flip(tmp_path / "checkpoints/200/policy.safetensors")
    flip(tmp_path / "checkpoints/300/policy.safetensors")
    saver, _ = saver_of(tmp_path, keep=2)
    for step in (120, 140, 160):
        assert save(saver, step, None)
    # the best of those that are whole has 10.0, the damaged ones look better
    assert [path.name for path in list_checkpoints(tmp_path)] == ["100", "140", "160", "200", "300"]


def test_what_is_damaged_after_it_was_verified_no_longer_counts(tmp_path):
    saver, _ = saver_of(tmp_path, keep=2)
    for step in (1, 2, 3):
        save(saver, step, None)
    flip(tmp_path / "checkpoints/3/policy.safetensors")
    save(saver, 4, None)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["2", "3", "4"]


def test_half_a_deletion_leaves_nothing_that_looks_like_a_checkpoint(tmp_path, monkeypatch):
    for step in (1, 2, 3):
        honest_run(tmp_path, step)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            prune_checkpoints(tmp_path, 2, tmp_path / "checkpoints/3")
    assert [path.name for path in list_checkpoints(tmp_path)] == ["2", "3"]
    # and the next time its rest is cleared away
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        ".1.tmp",
        "2",
        "3",
    ]
    prune_checkpoints(tmp_path, 2, tmp_path / "checkpoints/3")
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]


def test_a_linked_folder_of_checkpoints_is_neither_written_nor_repaired(tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    run.mkdir()
    (honest_run(other, 5)).rename(other / "checkpoints/.5.old")
    (run / "checkpoints").symlink_to(other / "checkpoints")
    before = sorted(other.rglob("*"))
    saver, said = saver_of(run)
    assert not save(saver, 7, None)
    assert said[-1].endswith("checkpoints: is a symbolic link; it should be a folder)")
    for read in (list_checkpoints, find_checkpoint, lambda r: find_checkpoint(r, "last")):
        with pytest.raises(CheckpointError, match="is a symbolic link"):
            read(run)
    with pytest.raises(CheckpointError):
        load_checkpoint(run / "checkpoints/5")
    assert sorted(other.rglob("*")) == before
