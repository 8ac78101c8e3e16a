"""Runs that cannot go on as they are: what is said, and what is used instead."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
from command_line import InterruptAt, run_command
from kill_and_resume import start_fwrl, write_config

from agents.saving import list_checkpoints, load_policy
from fwrl.files.checkpoint import load_checkpoint, save_checkpoint
from fwrl.run.directory import claimed

# the same training again and again; test_cli.py checks its shapes
pytestmark = pytest.mark.unchecked

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    config = write_config("task", folder)
    words = ["train", config, "total_steps=256", "evaluation.every_steps=128"]
    assert run_command(*words, "--run-dir", folder / "run") == 0
    return config, folder / "run"


@pytest.fixture
def run(original, tmp_path):
    config, before = original
    shutil.copytree(before, tmp_path / "run")
    return ["train", config, "evaluation.every_steps=128", "--run-dir", tmp_path / "run"]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {"flipped": flip, "cut": cut, "empty": lambda p: p.write_bytes(b""), "gone": Path.unlink}
FILES = ["manifest.json", "policy.safetensors", "optimizer.safetensors", "process.0.safetensors"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(damage, file, run, capsys):
    folder = run[-1] / "checkpoints/256"
    DAMAGES[damage](folder / file)
    left = {path: path.read_bytes() for path in folder.iterdir()}
    with InterruptAt(1):
        assert run_command(*run, "total_steps=256") == 75
    said = capsys.readouterr().out.replace("\n", " ")
    assert f"skipped: {folder}" in said
    assert "continues at 128 steps, bit for bit" in said
    assert {path: path.read_bytes() for path in folder.iterdir()} == left
    # and is replaced when the training comes there again
    assert run_command(*run, "total_steps=256") == 0
    load_checkpoint(folder)


def test_without_a_good_checkpoint_nothing_begins_anew_by_itself(run, capsys):
    directory = run[-1]
    for folder in list_checkpoints(directory):
        flip(folder / "policy.safetensors")
    before = sorted(directory.rglob("*.safetensors"))
    assert run_command(*run, "total_steps=512") == 2
    error = capsys.readouterr().err
    assert "none of its 3 checkpoints can be read; --fresh starts anew" in error
    assert sorted(directory.rglob("*.safetensors")) == before
    shutil.rmtree(directory / "checkpoints")
    assert run_command(*run, "total_steps=512") == 2
    assert "has a metrics.csv and no checkpoints; bring them back, or" in capsys.readouterr().err
    assert run_command(*run, "total_steps=512", "--fresh") == 0
    assert (directory.with_name("run.1") / "metrics.csv").exists()


def test_best_does_not_stumble_over_a_damaged_manifest(run):
    cut(run[-1] / "checkpoints/128/manifest.json")
    assert load_policy(run[-1], "best")
    assert run_command(*run, "total_steps=1024") == 0
    assert [folder.name for folder in list_checkpoints(run[-1])][-3:] == ["768", "896", "1024"]


def edited(directory, edit):
    """Change the newest checkpoint and let it look as if it had been saved so."""
    folder = list_checkpoints(directory)[-1]
    content = load_checkpoint(folder)
    edit(content.tensors, content.document)
    save_checkpoint(folder, content.tensors, content.document)


def set_version(package, version):
    def edit(tensors, document):
        document["surroundings"][package] = version

    return edit


def test_other_surroundings_are_told(run, capsys):
    edited(run[-1], set_version("torch", "2.0.1"))
    assert run_command(*run, "total_steps=320") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"not bit for bit: torch was 2.0.1 and is {version('torch')}" in said
    assert run_command(*run, "total_steps=384", "num_threads=2") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "continues at 320 steps, but not bit for bit: threads was 1 and is 2" in said
    assert run_command(*run, "total_steps=448", "num_threads=2") == 0
    assert "continues at 384 steps, bit for bit" in " ".join(capsys.readouterr().out.split())


def drop(file, name):
    def edit(tensors, document):
        del tensors[file][name]

    return edit


def resize(file, name):
    def edit(tensors, document):
        tensors[file][name] = tensors[file][name].repeat(2, *[1] * (tensors[file][name].dim() - 1))

    return edit


REFUSED = {
    "value.bias is missing": drop("policy", "value.bias"),
    "value.bias has shape [2], this policy needs [1]": resize("policy", "value.bias"),
    "what its streams remember is not what this policy remembers": resize("process.0", "carry.0"),
    "state of environments: 'generator' is": resize("process.0", "envs.generator"),
    "its counters are not those of a training": lambda _, d: d.update(counters={"steps": "many"}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(message, run, capsys):
    edited(run[-1], REFUSED[message])
    assert run_command(*run, "total_steps=512") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


OTHERS = {
    "core.kind=gru": "core.kind ('fast_weight' there, 'gru' here)",
    "env.id=fwrl/RepeatFirst-v0": "env.id ('fwrl/RepeatPrevious-v0' there, 'fwrl/RepeatFirst-v0'",
    "stack.width=32": "stack.width (16 there, 32 here)",
    "ppo.epochs=3": "ppo.epochs (2 there, 3 here)",
}


@pytest.mark.parametrize("override", OTHERS)
def test_another_configuration_is_told_key_by_key(override, run, capsys):
    assert run_command(*run, "total_steps=512", override, "seed=5") == 2
    error = capsys.readouterr().err
    assert OTHERS[override] in error
    assert "seed (0 there, 5 here)" in error
    assert "or start anew with --fresh" in error


def test_an_unknown_format_names_those_that_are_known(run, capsys):
    for folder in list_checkpoints(run[-1]):
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps(manifest | {"format": 99}))
    assert run_command(*run, "total_steps=512") == 2
    assert "format 99; this version of fwrl reads 1, 2" in " ".join(capsys.readouterr().out.split())


def test_a_run_of_the_first_format_goes_on(tmp_path, capsys):
    golden, directory = GOLDEN / "format-1", tmp_path / "run"
    shutil.copytree(golden / "checkpoint", directory / "checkpoints/32")
    config = golden / "config.yaml"
    shutil.copy(config, directory)
    assert run_command("train", config, "total_steps=64", "--run-dir", directory) == 0
    assert "not bit for bit: the episodes under way were not saved" in " ".join(
        capsys.readouterr().out.split()
    )
    assert [folder.name for folder in list_checkpoints(directory)] == ["32", "48", "64"]


def test_two_processes_never_write_one_directory(run, capsys):
    with claimed(run[-1]):
        other = start_fwrl(*run, "total_steps=512", output=run[-1].with_name("said"))
        other.join(60)
        assert other.exitcode == 2
        said = run[-1].with_name("said").read_text()
        assert "in use by process" in said
        assert "wait until it has ended, or choose another directory" in said
    assert run_command(*run, "total_steps=512") == 0
