"""Runs of two processes: what each owns, what is saved, how they stop and how they go on."""

import csv
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch
from kill_and_resume import checkpoint_fingerprint, metrics_rows
from rich.console import Console
from training_processes import PATIENCE, ProcessGroup, collect_outputs, start_commands

from agents import distributed
from agents.saving import list_checkpoints, load_policy
from envs import GymnasiumConfig, make_envs
from fwrl.files.checkpoint import Checkpoint, load_checkpoint, pack, unpack
from fwrl.run import build as setup
from fwrl.run import loop as training
from fwrl.run import saver
from fwrl.run import state as run_state
from fwrl.run.config import load_run_config
from fwrl.run.directory import open_run
from fwrl.run.last_resort import LastResort
from fwrl.run.saver import newest_checkpoint

ROOT = Path(__file__).parents[2]
TINY = """
env:
  id: fwrl/RepeatPrevious-v0
  num_envs: 4
stack: {width: 16}
encoder: {normalise_observations: true}
ppo: {num_steps: 16, minibatches: 2, learning_rate_schedule: linear}
evaluation: {every_steps: 256, episodes: 4, num_envs: 2}
total_steps: 512
"""
ENDLESS = "total_steps=100000000"
LAUNCHED = {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    # or else processes that are started again find the addresses of the dead (pytorch #135712)
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}


@pytest.fixture(scope="module")
def pair():
    group = ProcessGroup(2)
    yield group
    group.close()


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def digest(tensors):
    data = b"".join(leaf.detach().numpy().tobytes() for leaf in tensors)
    return hashlib.sha256(data).hexdigest()


def run_here(config, directory, *overrides):
    """Train as one of several processes; return hashes of all saved states and the env seeds."""
    saved, seeds = [], []

    def joined(captured, *arguments):
        groups = captured.tensors
        # in an order that does not depend on how they were loaded
        remembered = [groups["optimizer"][name] for name in sorted(groups["optimizer"])]
        learned = digest([*groups["policy"].values(), *remembered])
        saved.append((learned, digest([groups["process"]["generator.torch"]])))
        return original_joined(captured, *arguments)

    def start(envs, policy, seed):
        seeds.append(seed)
        return original_start(envs, policy, seed)

    original_joined, original_start = saver.joined, run_state.start
    run_config = load_run_config(config, overrides)
    setup.join(run_config)
    made = setup.prepare(run_config)
    directory.mkdir(exist_ok=True)
    continued = distributed.from_first(lambda: b"yes" if open_run(directory, run_config) else b"")
    quiet = Console(quiet=True)
    with (
        mock.patch.object(saver, "joined", joined),
        mock.patch.object(run_state, "start", start),
    ):
        resort = LastResort()
        code = training.train(run_config, made, directory, bool(continued), [], resort, quiet)
    # whoever follows must not go on before the first has written
    distributed.any_process(False)
    return code, saved, seeds, made.evaluation_envs is not None


def rows_of(directory):
    with (directory / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_processes_are_equal_whenever_they_save(pair, config, tmp_path):
    run = tmp_path / "run"
    first, second = pair(run_here, config, run)
    assert (first[0], second[0]) == (0, 0)
    policies, numbers = ([[each[i] for each in one[1]] for one in (first, second)] for i in (0, 1))
    assert policies[0] == policies[1]
    assert len(set(policies[0])) == 3
    assert not set(numbers[0]) & set(numbers[1])
    assert second[2] == [first[2][0] + 4]
    assert (first[3], second[3]) == (True, False)

    # 2 x 4 environments x 16 steps in each row
    rows = rows_of(run)
    assert [int(row["step"]) for row in rows] == [128, 256, 384, 512]
    assert [float(row["train/learning_rate"]) for row in rows] == pytest.approx(
        [1e-3 * share for share in (1, 0.75, 0.5, 0.25)]
    )
    assert [path.name for path in list_checkpoints(run)] == ["0", "256", "512"]
    tensors, _ = load_checkpoint(run / "checkpoints/512")
    for number, own in enumerate(numbers):
        assert digest([tensors[f"process.{number}"]["generator.torch"]]) == own[-1]
    assert digest(load_policy(run, "last").state_dict().values()) == digest(
        tensors["policy"][name] for name in load_policy(run, "last").state_dict()
    )
    assert load_policy(run, "last").encoder.output_size


def test_two_processes_go_on_as_if_they_had_never_stopped(pair, config, tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    constant = "ppo.learning_rate_schedule=constant", "ppo.entropy_schedule=constant"
    pair(run_here, config, run, *constant)
    continued = pair(run_here, config, run, *constant, "total_steps=1024")
    undisturbed = pair(run_here, config, whole, *constant, "total_steps=1024")
    for (code, saved, *_), (_, others, *_) in zip(continued, undisturbed, strict=True):
        assert code == 0
        assert saved[-1] == others[-1]
    (_, first, *_), (_, second, *_) = continued
    assert [each[0] for each in first] == [each[0] for each in second]
    assert checkpoint_fingerprint(run) == checkpoint_fingerprint(whole)
    assert metrics_rows(run) == metrics_rows(whole)
    assert [int(row["step"]) for row in rows_of(run)] == list(range(128, 1025, 128))
    finished = pair(run_here, config, run, *constant, "total_steps=1024")
    assert [(code, saved) for code, saved, *_ in finished] == [(0, []), (0, [])]


def restored(config, run):
    """The counters, the learner and the random numbers after a restore in this process."""
    run_config = load_run_config(config)
    made = setup.prepare(run_config)
    checkpoint = newest_checkpoint(run, str)
    gone_on, _ = run_state.resume(made.learner, made.envs, checkpoint, run_config)
    learned = digest(made.learner.policy.state_dict().values())
    return gone_on.counters, learned, digest([torch.get_rng_state()])


def test_a_run_goes_on_in_another_number_of_processes(pair, config, tmp_path):
    run = tmp_path / "run"
    (_, first, *_), (_, second, *_) = pair(run_here, config, run)
    counters, learned, numbers = restored(config, run)
    assert counters.steps == 512
    assert (learned, numbers) == (pair(restored, config, run)[0][1], first[-1][1])
    assert pair(restored, config, run)[1][2] == second[-1][1]
    code, *_ = run_here(config, run, "total_steps=576")
    assert code == 0
    # what one process saved has no numbers for the second, which takes some that were not used
    tensors = load_checkpoint(run / "checkpoints/576").tensors
    assert "process.1" not in tensors
    (now, mine, one), (then, theirs, other) = pair(restored, config, run)
    assert now == then
    assert now.steps == 576
    assert mine == theirs
    assert one == digest([tensors["process.0"]["generator.torch"]])
    assert other not in {one, second[-1][1]}
    assert pair(run_here, config, run, "total_steps=704")[1][0] == 0
    assert [int(row["step"]) for row in rows_of(run)] == [128, 256, 384, 512, 576, 704]


def test_what_is_packed_is_unpacked():
    tensors = {"a": {"x.y": torch.randn(2, 3)}, "b": {"0.step": torch.tensor(4)}}
    content = unpack(pack(Checkpoint(tensors, {"score": None, "deep": {"list": [1]}})))
    assert content.document == {"score": None, "deep": {"list": [1]}}
    assert torch.equal(content.tensors["a"]["x.y"], tensors["a"]["x.y"])
    assert content.tensors["b"]["0.step"] == 4


def wait_for_a_checkpoint(run):
    deadline = time.monotonic() + PATIENCE
    while not list_checkpoints(run):
        assert time.monotonic() < deadline
        time.sleep(0.1)


ALL = pytest.param((0, 1, 1), marks=pytest.mark.slow, id="all")


@pytest.mark.parametrize("who", [pytest.param((1,), id="one"), ALL])
def test_a_signal_stops_all_with_everything_saved(who, config, tmp_path):
    run = tmp_path / "run"
    with start_commands([("train", config, ENDLESS, "--run-dir", run)] * 2, tmp_path) as processes:
        wait_for_a_checkpoint(run)
        for number in who:
            processes[number].send_signal(signal.SIGTERM)
        (code, out, err), (other, nothing, silent) = collect_outputs(processes)
    assert (code, other) == (75, 75), err + silent
    assert "stopped and saved" in out
    assert nothing == ""
    newest = list_checkpoints(run)[-1]
    assert rows_of(run)[-1]["step"] == newest.name
    assert "process.1" in load_checkpoint(newest).tensors


def test_a_signal_to_a_process_and_all_it_started_spares_its_environments():
    # a launcher signals a group of processes; a rollout under way still needs its environments
    config = GymnasiumConfig(id="CartPole-v1", workers=1, num_envs=2)
    before = set(multiprocessing.active_children())
    envs = make_envs(config)
    try:
        (worker,) = set(multiprocessing.active_children()) - before
        assert os.getpgid(worker.pid) != os.getpgid(0)
    finally:
        envs.close()


def test_processes_that_were_started_differently_refuse_to_train(config, tmp_path):
    words = ("train", config, "--run-dir", tmp_path / "run")
    with start_commands([words, (*words, "seed=1")], tmp_path) as processes:
        (code, out, err), (other, *_) = collect_outputs(processes)
    assert (code, other, out) == (2, 2, "")
    assert err.startswith("fwrl: the processes of this run differ in configuration")
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_mistake_is_said_once(config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/other").touch()
    for mistake in (("ppo.epochz=3",), ("--run-dir", "run")):
        with start_commands([("train", config, *mistake)] * 2, tmp_path) as processes:
            (code, out, err), (other, nothing, silent) = collect_outputs(processes)
        assert (code, other, out, nothing, silent) == (2, 2, "", "", "")
        assert err.startswith("fwrl: ")
        assert err.count("\n") == 1


@contextmanager
def launch(folder, *words):
    """``torchrun`` with two processes, which write to ``folder/said``."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(
            [*launcher, "--nproc-per-node=2", *map(str, words)],
            cwd=folder,
            env=os.environ | LAUNCHED,
            stdout=said,
            stderr=said,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.mark.slow
def test_torchrun(config, tmp_path):
    with launch(tmp_path, ROOT / "train.py", config) as process:
        assert process.wait(PATIENCE) == 0
    said = (tmp_path / "said").read_text()
    assert "in 2 processes" in said
    assert said.count("fwrl evaluate runs/tiny") == 1
    words = ("-m", "fwrl", "train", config, ENDLESS, "--run-dir", "endless")
    with launch(tmp_path, *words):
        wait_for_a_checkpoint(tmp_path / "endless")
    # the launcher has been sent a signal
    assert "stopped and saved" in (tmp_path / "said").read_text()
    newest = list_checkpoints(tmp_path / "endless")[-1].name
    assert rows_of(tmp_path / "endless")[-1]["step"] == newest


@pytest.mark.slow
def test_a_process_that_is_killed_is_started_again_and_nothing_is_lost(config, tmp_path):
    words = ("--max-restarts=1", ROOT / "train.py", config, "total_steps=8192", "--fresh")
    with launch(tmp_path, *words, "--run-dir", "whole") as process:
        assert process.wait(PATIENCE) == 0
    run, said = tmp_path / "run", tmp_path / "said"
    with launch(tmp_path, *words, "--run-dir", "run") as process:
        deadline = time.monotonic() + PATIENCE
        while not run.exists() or len(list_checkpoints(run)) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        find = ["pgrep", "-P", str(process.pid)]
        children = subprocess.run(find, capture_output=True, text=True, check=True).stdout.split()
        os.kill(int(children[-1]), signal.SIGKILL)
        assert process.wait(PATIENCE) == 0, said.read_text()
    text = " ".join(said.read_text().split())
    # once from each start
    assert text.count("in 2 processes") == 2, text
    assert "bit for bit" in text
    assert "not bit for bit" not in text
    assert not (tmp_path / "run.1").exists()
    assert checkpoint_fingerprint(run) == checkpoint_fingerprint(tmp_path / "whole")
    assert metrics_rows(run) == metrics_rows(tmp_path / "whole")
