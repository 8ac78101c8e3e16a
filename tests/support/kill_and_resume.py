"""Trainings that are killed and continued, and the fingerprint by which two of them are compared.

``python tests/support/kill_and_resume.py --kills 200`` kills real trainings at random moments and
continues each of them until it has ended; its last checkpoint must then be that of a training that
nobody disturbed.
"""

import argparse
import csv
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from agents.saving import list_checkpoints
from fwrl.cli import main
from fwrl.files.checkpoint import load_checkpoint

SMALL = """
env: {env}
core: {core}
stack: {{width: 16}}
encoder: {{normalise_observations: {floats}, image_features: 32, time_frequencies: 2}}
reward: {{normalise: true}}
ppo: {{num_steps: 16, minibatches: 2, epochs: 2, learning_rate_schedule: linear}}
evaluation: {{every_steps: {every}, episodes: 2, num_envs: 2}}
checkpoint: {{every_minutes: {minutes}}}
total_steps: {steps}
"""
# Name -> environment, whether it is observed in floats, core, steps between evaluations, and all.
TRAININGS = {
    "task": ("{id: fwrl/RepeatPrevious-v0, num_envs: 4}", False, "fast_weight", 512, 2048),
    "graph": ("{id: fwrl/GraphMetaRL-v0, num_envs: 4}", False, "fast_weight_memory", 512, 2048),
    "cartpole": ("{id: CartPole-v1, num_envs: 4}", True, "gru", 512, 1536),
    "workers": ("{id: CartPole-v1, num_envs: 4, workers: 2}", True, "delta_rnn", 512, 2048),
    "popgym": ("{id: popgym-AutoencodeEasy-v0, num_envs: 4}", False, "lstm", 512, 2048),
    "minigrid": ("{id: MiniGrid-MemoryS7-v0, num_envs: 4}", False, "recurrent_delta", 512, 2048),
    "pong": (
        "{kind: atari, game: pong, num_envs: 2, num_threads: 1, max_episode_frames: 400}",
        False,
        "fast_weight",
        512,
        1024,
    ),
}
# These say how long something took, or count what happened to one process.
VOLATILE = ("time/", "health/")
PATIENCE = 120
PRELOADED = ["torch", "agents.ppo", "fwrl.run.loop", "fwrl.cli.app", "popgym", "minigrid"]


def write_config(name, folder, minutes=10):
    """The configuration file of one of ``TRAININGS``, saved besides whenever so long has passed."""
    env, floats, core, every, steps = TRAININGS[name]
    path = folder / f"{name}.yaml"
    core = "{kind: " + core + "}"
    values = {"floats": str(floats).lower(), "every": every, "steps": steps, "minutes": minutes}
    path.write_text(SMALL.format(env=env, core=core, **values))
    return path


def begin_life(*words, said=os.devnull, before=None, arguments=()):
    """A process that runs ``fwrl`` with these words; it begins quickly, as everything is loaded.

    Args:
        words: After ``fwrl``.
        said: The file that receives what it says.
        before: What the process calls first.
        arguments: Of that.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    # not a daemon, which could not start workers
    words = [str(word) for word in words]
    process = context.Process(target=_live, args=(words, str(said), before, arguments))
    process.start()
    return process


def _live(words, said, before, arguments):
    if before is not None:
        before(*arguments)
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["fwrl", *words]
    main()


def whole_life(*words, said=os.devnull):
    """The exit code of a life that nobody ends."""
    process = begin_life(*words, said=said)
    process.join(PATIENCE)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def fingerprint(run, without=()):
    """A hash of everything in the newest checkpoint but times, sizes of logs, and these tensors."""
    content = load_checkpoint(list_checkpoints(run)[-1])
    document = {key: value for key, value in content.document.items() if key != "log"}
    document["counters"] = {k: v for k, v in document["counters"].items() if k != "seconds"}
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    for file, group in sorted(content.tensors.items()):
        for name, leaf in sorted(group.items()):
            if not name.startswith((*without, *(f"unfinished.{word}" for word in VOLATILE))):
                digest.update(f"{file} {name} {leaf.dtype} {leaf.shape}".encode())
                digest.update(leaf.numpy().tobytes())
    return digest.hexdigest()


def rows(run):
    """``metrics.csv`` without what differs from life to life."""
    with (run / "metrics.csv").open() as file:
        return [
            {name: cell for name, cell in row.items() if not name.startswith(VOLATILE)}
            for row in csv.DictReader(file)
        ]


def kill_until_it_ends(config, run, generator, longest, kills=None):
    """How many times a training was killed before it ended; no checkpoint may be lost by it.

    Args:
        config: Its file.
        run: Its directory.
        generator: Of the moments.
        longest: Seconds that a life lasts at most, as long as ``kills`` is not reached.
        kills: No more than these; None: until it has ended by itself.
    """
    count, newest = 0, -1
    while kills is None or count < kills:
        process = begin_life("train", config, "--run-dir", run)
        process.join(generator.uniform(0, longest))
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        count += 1
        steps = [int(folder.name) for folder in list_checkpoints(run)]
        assert max(steps, default=-1) >= newest, f"{newest} was saved and is lost"
        newest = max(steps, default=-1)
        if steps:
            load_checkpoint(list_checkpoints(run)[-1])
    code = whole_life("train", config, "--run-dir", run, said=run.with_suffix(".said"))
    assert code == 0, run.with_suffix(".said").read_text()
    return count


def _main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trainings", nargs="*", default=list(TRAININGS))
    wanted = parser.parse_args()
    generator, killed, equal, ended = random.Random(wanted.seed), Counter(), Counter(), Counter()
    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    undisturbed, seconds = {}, {}
    for name in wanted.trainings:
        config = write_config(name, folder, minutes=0.0005)
        began = time.monotonic()
        assert whole_life("train", config, "--run-dir", folder / name) == 0
        seconds[name] = time.monotonic() - began
        undisturbed[name] = fingerprint(folder / name), rows(folder / name)
    while killed.total() < wanted.kills:
        name = min(wanted.trainings, key=lambda each: killed[each])
        run = folder / f"{name}-{ended[name]}"
        killed[name] += kill_until_it_ends(
            folder / f"{name}.yaml", run, generator, 0.4 * seconds[name]
        )
        ended[name] += 1
        equal[name] += (fingerprint(run), rows(run)) == undisturbed[name]
        shutil.rmtree(run)
        sys.stdout.write(f"{name}: {killed[name]} kills, {equal[name]} of {ended[name]} equal\n")
        sys.stdout.flush()
    shutil.rmtree(folder)
    total = f"{equal.total()} of {ended.total()} trainings equal"
    sys.stdout.write(f"{killed.total()} kills, {total}\n")
    return equal.total() != ended.total()


if __name__ == "__main__":
    sys.exit(_main())
