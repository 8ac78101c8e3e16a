"""Kills trainings and continues them, and compares two trainings by a fingerprint.

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
encoder: {{normalise_observations: {floats}, image_features: 32, time_frequencies: 2{more}}}
reward: {{normalise: true}}
ppo: {{num_steps: 16, minibatches: 2, epochs: 2, learning_rate_schedule: linear}}
evaluation: {{every_steps: {every}, episodes: 2, num_envs: 2}}
checkpoint: {{every_minutes: {minutes}}}
total_steps: {steps}
"""
# Name -> environment, whether its observations are floats, core, steps between evaluations, steps
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
    "bfloat16": ("{id: fwrl/RepeatPrevious-v0, num_envs: 4}", False, "delta_delta", 512, 2048),
    "pendulum": ("{id: Pendulum-v1, num_envs: 4}", True, "gru", 512, 1536),
    "frames": ("{id: CartPole-v1, num_envs: 4}", True, "fast_weight", 512, 1536),
    "popart": ("{id: CartPole-v1, num_envs: 4}", True, "fast_weight", 512, 1536),
    "two_hot": ("{id: fwrl/RepeatPrevious-v0, num_envs: 4}", False, "fast_weight", 512, 1536),
    "own_critic": ("{id: CartPole-v1, num_envs: 4}", True, "fast_weight", 512, 1536),
    "mixed": ("{id: CartPole-v1, num_envs: 4}", True, "[{kind: gru}, {}]", 512, 1536),
}
# More lines of the configuration of some.
MORE = {
    "bfloat16": "precision: bfloat16\n",
    "popart": "critic: {head: popart}\n",
    "two_hot": "critic: {head: two_hot}\n",
    "own_critic": "critic: {memory: own}\n",
    "pendulum": "action: {distribution: squashed, noise_correlation: 0.9}\n",
}
# More keys of their encoders.
ENCODERS = {
    "frames": ", frame_stack: 3, hidden: [24]",
    "popart": ", normalise_reward: true",
    "two_hot": ", normalise_reward: true",
}
# Metrics and tensors that measure time or count events of one process.
VOLATILE = ("time/", "health/")
PATIENCE = 120
PRELOADED = ["torch", "agents.ppo", "fwrl.run.loop", "fwrl.cli.app", "popgym", "minigrid"]


def write_config(name, folder, minutes=10):
    """The configuration file of one of ``TRAININGS``, which saves every ``minutes`` minutes."""
    env, floats, core, every, steps = TRAININGS[name]
    path = folder / f"{name}.yaml"
    core = core if core.startswith("[") else "{kind: " + core + "}"
    values = {"floats": str(floats).lower(), "every": every, "steps": steps, "minutes": minutes}
    values["more"] = ENCODERS.get(name, "")
    path.write_text(SMALL.format(env=env, core=core, **values) + MORE.get(name, ""))
    return path


def start_fwrl(*words, output=os.devnull, before=None, arguments=()):
    """Start ``fwrl`` with these words in a process forked from one with all modules loaded.

    Args:
        words: The words after ``fwrl``.
        output: The file that receives standard output and error.
        before: A function that the process calls first.
        arguments: The arguments of ``before``.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    # not a daemon, which could not start workers
    words = [str(word) for word in words]
    process = context.Process(target=_run, args=(words, str(output), before, arguments))
    process.start()
    return process


def _run(words, output, before, arguments):
    if before is not None:
        before(*arguments)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["fwrl", *words]
    main()


def run_to_end(*words, output=os.devnull):
    """The exit code of ``fwrl`` with these words, run in a process to its end."""
    process = start_fwrl(*words, output=output)
    process.join(PATIENCE)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def checkpoint_fingerprint(run, without=()):
    """A hash of the newest checkpoint without times, sizes of logs and the tensors ``without``."""
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


def metrics_rows(run):
    """The rows of ``metrics.csv`` without the columns that differ between equal trainings."""
    with (run / "metrics.csv").open() as file:
        return [
            {name: cell for name, cell in row.items() if not name.startswith(VOLATILE)}
            for row in csv.DictReader(file)
        ]


def kill_until_finished(config, run, generator, longest, kills=None):
    """Kill a training at random moments until it ends; return the number of kills.

    No kill may lose a saved checkpoint.

    Args:
        config: The configuration file.
        run: The run directory.
        generator: Draws the moments of the kills.
        longest: The most seconds before a kill.
        kills: The most kills; None: kill until the training ends by itself.
    """
    count, newest = 0, -1
    while kills is None or count < kills:
        process = start_fwrl("train", config, "--run-dir", run)
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
    code = run_to_end("train", config, "--run-dir", run, output=run.with_suffix(".log"))
    assert code == 0, run.with_suffix(".log").read_text()
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
        assert run_to_end("train", config, "--run-dir", folder / name) == 0
        seconds[name] = time.monotonic() - began
        undisturbed[name] = checkpoint_fingerprint(folder / name), metrics_rows(folder / name)
    while killed.total() < wanted.kills:
        name = min(wanted.trainings, key=lambda each: killed[each])
        run = folder / f"{name}-{ended[name]}"
        killed[name] += kill_until_finished(
            folder / f"{name}.yaml", run, generator, 0.4 * seconds[name]
        )
        ended[name] += 1
        equal[name] += (checkpoint_fingerprint(run), metrics_rows(run)) == undisturbed[name]
        shutil.rmtree(run)
        sys.stdout.write(f"{name}: {killed[name]} kills, {equal[name]} of {ended[name]} equal\n")
        sys.stdout.flush()
    shutil.rmtree(folder)
    total = f"{equal.total()} of {ended.total()} trainings equal"
    sys.stdout.write(f"{killed.total()} kills, {total}\n")
    return equal.total() != ended.total()


if __name__ == "__main__":
    sys.exit(_main())
