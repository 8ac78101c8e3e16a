"""A training that was interrupted anywhere goes on bit for bit; everything it needs is saved."""

import json
import random
from collections import deque
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from command_line import InterruptAt, run_command
from kill_and_resume import TRAININGS, checkpoint_fingerprint, metrics_rows, write_config
from torch import nn

from agents.saving import list_checkpoints
from fwrl.files.checkpoint import load_checkpoint, save_checkpoint
from fwrl.run import build as setup
from fwrl.run import loop as training
from fwrl.run.config import load_run_config
from fwrl.run.saver import newest_checkpoint
from fwrl.run.state import resume

# the same training again and again; test_cli.py checks its shapes
pytestmark = pytest.mark.unchecked

# types are checked here on samples, which are drawn by Python's generator
CHECKED = "generator.python"


def fingerprint(run):
    return checkpoint_fingerprint(run, without=(CHECKED,))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The directory, the fingerprint, the rows and the number of safe points of whole trainings."""
    found = {}

    def train(name):
        if name not in found:
            folder = tmp_path_factory.mktemp(name)
            config = write_config(name, folder)
            with InterruptAt(None) as points:
                assert run_command("train", config, "--run-dir", folder / "run") == 0
            run = folder / "run"
            found[name] = config, run, fingerprint(run), metrics_rows(run), points.checks
        return found[name]

    return train


SLOW = TRAININGS.keys() - {"task", "cartpole"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in TRAININGS]
)
def test_an_interrupted_training_ends_as_if_it_had_not_been(name, whole, tmp_path):
    config, _, expected, expected_rows, points = whole(name)
    run, generator = tmp_path / "run", random.Random(name)
    for _ in range(2):
        with InterruptAt(generator.randrange(1, points // 2)):
            assert run_command("train", config, "--run-dir", run) == 75
    assert run_command("train", config, "--run-dir", run) == 0
    assert metrics_rows(run) == expected_rows
    assert fingerprint(run) == expected
    # a finished run is left as it is
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    assert run_command("train", config, "--run-dir", run) == 0
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")} == before


def test_an_interrupted_evaluation_is_made_once_more(whole, tmp_path, monkeypatch):
    config, _, expected, expected_rows, _ = whole("task")
    run, evaluate = tmp_path / "run", training.evaluate

    def interrupted(policy, envs, *arguments):
        with InterruptAt(20):
            return evaluate(policy, envs, *arguments)

    monkeypatch.setattr(training, "evaluate", interrupted)
    assert run_command("train", config, "--run-dir", run) == 75
    saved = load_checkpoint(list_checkpoints(run)[-1])
    assert saved.document["counters"]["steps"] == 512
    assert saved.document["score"] is None
    assert "unfinished.train/loss" in saved.tensors["metrics"]
    monkeypatch.undo()
    assert run_command("train", config, "--run-dir", run) == 0
    assert (fingerprint(run), metrics_rows(run)) == (expected, expected_rows)


def test_a_score_survives_a_stop_before_the_next_iteration(whole, tmp_path):
    config, *_ = whole("task")
    run = tmp_path / "run"
    with InterruptAt(600):
        run_command("train", config, "--run-dir", run)
    newest = list_checkpoints(run)[-1]
    content = load_checkpoint(newest)
    content.document["score"] = 0.75
    save_checkpoint(newest, content.tensors, content.document)
    with InterruptAt(1):
        assert run_command("train", config, "--run-dir", run) == 75
    assert load_checkpoint(newest).document["score"] == 0.75


def test_fast_opens_new_episodes_and_says_so(whole, tmp_path, capsys):
    config, _, expected, *_ = whole("cartpole")
    run = tmp_path / "run"
    with InterruptAt(300):
        run_command("train", config, "--run-dir", run)
    capsys.readouterr()
    assert run_command("train", config, "--run-dir", run, "checkpoint.resume=fast") == 0
    assert "not bit for bit: checkpoint.resume is 'fast'" in capsys.readouterr().out
    assert fingerprint(run) != expected


def changed(leaf):
    """Another tensor of the same type, different in each of its parts that could matter."""
    if leaf.dtype == torch.bool:
        return ~leaf
    if leaf.dtype == torch.uint8 and leaf.numel() > 5000:
        # the words of torch's generator, behind what it was seeded with
        other = leaf.clone()
        other[24:2400] ^= 1
        return other
    if leaf.is_floating_point():
        return leaf * 1.5 + 0.25
    return leaf + 1


def saved_items(content):
    """The place of everything that a checkpoint holds for the training to go on."""
    items = [
        (file, name)
        for file, group in content.tensors.items()
        for name, leaf in group.items()
        # NaN stands for nothing: no second normal number was drawn in advance, no success told
        if leaf.numel() and not leaf.isnan().all()
    ]
    return [*items, *(("counters", name) for name in content.document["counters"])]


def perturbed(content, item):
    file, name = item
    tensors = {each: dict(group) for each, group in content.tensors.items()}
    document = json.loads(json.dumps(content.document))
    if file == "counters":
        document["counters"][name] += 1
    else:
        tensors[file][name] = changed(tensors[file][name])
    return content._replace(tensors=tensors, document=document)


# how long it took; which environments can be continued, which is told; what only pictures show, or
# only an episode without mistakes; and two that matter where something went wrong: test_signals.py
# and test_training_faults.py have them
TOLD = {
    ("counters", "seconds"),
    ("process.0", "envs.exact"),
    ("process.0", "envs.task._last_action"),
    ("process.0", "envs.task._mistakes"),
    ("counters", "evaluated_at"),
    ("counters", "skipping"),
}


@pytest.mark.parametrize("name", ["task", pytest.param("cartpole", marks=pytest.mark.slow)])
def test_everything_that_is_saved_matters(name, whole, tmp_path):
    config, *_ = whole(name)
    words = ["train", config, "--run-dir", tmp_path / "run"]
    with InterruptAt(500):
        run_command(*words)
    content = load_checkpoint(list_checkpoints(tmp_path / "run")[-1])
    steps = content.document["counters"]["steps"]

    def end(content, name):
        """The fingerprint some iterations later, or what was refused."""
        run = tmp_path / name
        save_checkpoint(run / "checkpoints" / str(steps), content.tensors, content.document)
        (run / "config.yaml").write_text((tmp_path / "run/config.yaml").read_text())
        try:
            code = run_command("train", config, f"total_steps={steps + 128}", "--run-dir", run)
        except (RuntimeError, IndexError) as error:
            # an action that does not exist, for instance
            return repr(error)
        return fingerprint(run) if code == 0 else code

    expected = end(content, "same")
    assert isinstance(expected, str)
    assert end(content, "again") == expected
    items = [item for item in saved_items(content) if item not in TOLD]
    # what an interrupted evaluation leaves to be written matters to the rows, see above
    items = [item for item in items if not item[1].startswith((CHECKED, "unfinished."))]
    # of the many parameters and their moments one of each kind is enough
    chosen = [item for item in items if item[0] not in ("policy", "optimizer")]
    for file in ("policy", "optimizer"):
        chosen += random.Random(0).sample([item for item in items if item[0] == file], 6)
    without_effect = [
        item
        for number, item in enumerate(chosen)
        if end(perturbed(content, item), str(number)) == expected
    ]
    assert not without_effect, str(without_effect)


def contents(thing, path="", seen=None):
    """Every number and text that can be reached from an object, by the path to it."""
    seen = {} if seen is None else seen
    if isinstance(thing, bool | int | float | str | bytes | None):
        yield path, thing
        return
    if id(thing) in seen or (callable(thing) and not isinstance(thing, nn.Module)):
        return
    seen[id(thing)] = path, thing
    if isinstance(thing, np.random.Generator):
        yield path, str(thing.bit_generator.state)
    elif isinstance(thing, np.ndarray | torch.Tensor):
        values = thing.detach().cpu().numpy() if isinstance(thing, torch.Tensor) else thing
        yield path, (values.dtype.str, values.shape, values.tobytes())
    elif isinstance(thing, Mapping):
        for key, part in thing.items():
            # an optimiser has parameters for keys
            name = seen[id(key)][0] if isinstance(key, torch.Tensor) else key
            yield from contents(part, f"{path}.{name}", seen)
    elif isinstance(thing, list | tuple | deque):
        for number, part in enumerate(thing):
            yield from contents(part, f"{path}.{number}", seen)
    elif hasattr(thing, "__dict__"):
        # addresses of parameters for steps in C, which are looked up anew
        parts = {name: part for name, part in vars(thing).items() if name != "_plan"}
        yield from contents(parts, path, seen)


def differences(one, other):
    """The paths at which two objects differ."""
    here, there = dict(contents(one)), dict(contents(other))
    return {
        path for path in here.keys() | there.keys() if repr(here.get(path)) != repr(there.get(path))
    }


# what is overwritten before it is read again, blocks of actions (what they hold is compared by the
# state of the environments), the generators of spaces, from which nobody draws, and what closing
# leaves behind
SCRATCH = (
    ".envs._next",
    ".envs.log._blocks",
    ".envs.log._rows",
    ".found_inf",
    ".param_groups.0.lr",
    "_np_random",
    ".closed",
)


@pytest.mark.parametrize(
    "name",
    [
        "task",
        "cartpole",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("graph", "popgym", "minigrid")),
    ],
)
def test_nothing_that_a_training_carries_is_left_out(name, whole, tmp_path, monkeypatch):
    config, *_ = whole(name)
    runs = []
    original = training._loop

    def remember(job):
        runs.append(job.run)
        return original(job)

    monkeypatch.setattr(training, "_loop", remember)
    path = tmp_path / "run"
    assert run_command("train", config, "--run-dir", path, "total_steps=1024") == 0
    live = runs[-1]
    run_config = load_run_config(config)
    made = setup.prepare(run_config)
    checkpoint = newest_checkpoint(path, print)
    gone_on, notes = resume(made.learner, made.envs, checkpoint, run_config)
    assert notes == []

    def left_out(one, other):
        return {
            path for path in differences(one, other) if not any(each in path for each in SCRATCH)
        }

    assert left_out(live, gone_on) == set()
    assert differences(live.envs.state(), gone_on.envs.state()) == set()
    # a component that counts for itself is noticed
    live.learner.policy.encoder.seen_so_far = 3
    assert left_out(live, gone_on) != set()
