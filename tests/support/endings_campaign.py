"""Ends commands in every way that a machine has, continues them, and counts what was lost.

``python tests/support/endings_campaign.py --ends 200`` ends trainings, trainings in two processes,
comparisons, searches and benchmarks at random moments, by signals, closed outputs, full disks,
moved directories and environments that ask Python to exit, and gives the same command again until
it has ended. Nothing that was saved may be missing, and the outcome must be that of a command that
nobody disturbed.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kill_and_resume import checkpoint_fingerprint, metrics_rows

from agents.saving import list_checkpoints
from fwrl.bench.results import read_rows
from fwrl.files.checkpoint import load_checkpoint
from fwrl.run.exit_codes import FAILED, FINISHED, MISTAKE, STOPPED

RUN = """
env: {id: fwrl/RepeatPrevious-v0, num_envs: 4}
stack: {width: 16}
encoder: {normalise_observations: true}
ppo: {num_steps: 16, minibatches: 2}
evaluation: {every_steps: 2048, episodes: 2, num_envs: 2}
checkpoint: {every_minutes: 0.002}
total_steps: 16384
"""
NESTED = RUN.replace("\n", "\n      ").replace("      total_steps: 16384", "")
FILES = {
    "run.yaml": RUN,
    "carts.yaml": RUN.replace("fwrl/RepeatPrevious-v0", "CartPole-v1"),
    "leaving.yaml": RUN.replace("fwrl/RepeatPrevious-v0", "Leaving-v0").replace("16384", "4096"),
    "columns.yaml": f"""
tasks:
  one:
    config: {NESTED}
columns: {{none: [core.kind=none], gru: [core.kind=gru]}}
seeds: [0]
total_steps: 16384
episodes: 4
""",
    "search.yaml": f"""
config: {NESTED.replace("      ", "  ")}
  total_steps: 2048
space:
  ppo.learning_rate: {{low: 1e-4, high: 1e-2, log: true}}
total_steps: 2048
trials: 4
""",
    "leaving.py": """
import sys
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

class Leaving(CartPoleEnv):
    steps = 0

    def step(self, action):
        Leaving.steps += 1
        if Leaving.steps % 500 == 0:
            sys.exit()
        return super().step(action)

gymnasium.register("Leaving-v0", Leaving, max_episode_steps=100)
""",
}


class Command(NamedTuple):
    """A command that writes into ``out``, and what is compared when it has ended."""

    words: list[str]
    outcome: Callable[[Path, bool], object]
    """Called with whether rows of logs count: those that a full disk refuses are lost."""
    seconds: float
    """The most seconds before it is ended: of a training, after its first line."""
    ends: tuple[str, ...]
    processes: int = 1


def run_outcome(out, rows):
    return checkpoint_fingerprint(out), metrics_rows(out) if rows else None


def rows_outcome(out, rows):
    rows = read_rows(out / "results.csv")
    return [{name: cell for name, cell in row.items() if "second" not in name} for row in rows]


def comparison_outcome(out, rows):
    runs = sorted(path.parent for path in out.rglob("checkpoints"))
    found = rows_outcome(out, rows)
    # the other columns come from the rows of logs
    scores = [{name: row[name] for name in ("task", "column", "return_mean")} for row in found]
    return [run_outcome(run, rows) for run in runs], found if rows else scores


def search_outcome(out, rows):
    """Only the number of trials: which are proposed depends on those that had ended by then."""
    return len(read_rows(out / "results.csv"))


SIGNALS = ("SIGKILL", "SIGTERM", "SIGHUP")
ALL = (*SIGNALS, "closed pipe", "full disk", "moved directory")
COMMANDS = {
    "train": Command(["train", "run.yaml", "--run-dir"], run_outcome, 3.0, ALL),
    "train, replayed": Command(["train", "carts.yaml", "--run-dir"], run_outcome, 3.0, ALL),
    "train, environment exits": Command(
        ["train", "leaving.yaml", "--import", "leaving", "--run-dir"],
        lambda out, rows: len(list_checkpoints(out)) > 0,
        1.0,
        SIGNALS,
    ),
    "two processes": Command(["train", "run.yaml", "--run-dir"], run_outcome, 5.0, SIGNALS[:2], 2),
    "compare": Command(["compare", "columns.yaml", "--out"], comparison_outcome, 25.0, ALL[:-1]),
    "tune": Command(["tune", "search.yaml", "--out"], search_outcome, 25.0, ALL[:-1]),
    "bench": Command(
        ["bench", "retrieval", "max_steps=400", "sizes=[4,6]", "--jobs", "2", "--out"],
        rows_outcome,
        15.0,
        ALL[:-1],
    ),
}


def start(command, out):
    words = ["-m", "fwrl", *command.words, str(out)]
    if command.processes > 1:
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *words]
    return subprocess.Popen(
        [sys.executable, *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # or else reading a line takes more, which communicate() does not see
        bufsize=0,
    )


def end(kind, process, out):
    """End a command in one way."""
    match kind:
        case "SIGKILL":
            os.killpg(process.pid, signal.SIGKILL)
        case "closed pipe":
            process.stdout.close()
        case "moved directory" if out.is_dir():
            out.rename(out.with_name("moved"))
        case "full disk" | "moved directory":
            pass
        case _:
            process.send_signal(signal.Signals[kind])


def saved(out):
    """The newest steps of each run below a folder, all of which must load."""
    newest = {}
    for folder in sorted(out.rglob("checkpoints")):
        found = list_checkpoints(folder.parent)
        for checkpoint in found[-1:]:
            load_checkpoint(checkpoint)
            newest[folder.parent.relative_to(out)] = int(checkpoint.name)
    return newest


def one_end(command, kind, out, generator):
    """End a command once; returns what it said and its exit code; None if it had ended before."""
    before = saved(out) if out.exists() else {}
    process = start(command, out)
    if kind == "full disk":
        limit = generator.choice([300, 3_000, 30_000, 60_000])
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    said = process.stdout.readline().decode() if command.words[0] == "train" else ""
    time.sleep(generator.uniform(0, command.seconds))
    ended = process.poll() is not None
    if not ended:
        end(kind, process, out)
    rest, _ = (b"", None) if process.stdout.closed else process.communicate(timeout=120)
    code = process.wait(120)
    said += rest.decode()
    moved = out.with_name("moved")
    if moved.exists():
        assert ended or code in (FAILED, FINISHED), (code, said)
        for sibling in out.parent.glob(f"{out.name}*"):
            shutil.rmtree(sibling)
        moved.rename(out)
    after = saved(out) if out.exists() else {}
    lost = {run: steps for run, steps in before.items() if after.get(run, -1) < steps}
    assert not lost, f"{kind}: {lost} was saved and is lost; {after}; {said}"
    assert "Traceback" not in said or command.processes > 1, (kind, code, said)
    # a signal may come before or after everything, when it is not waited for
    late = [-signal.Signals[name] for name in SIGNALS]
    assert code in (FINISHED, FAILED, STOPPED, MISTAKE, *late), (code, said)
    waited = said and "fwrl evaluate" not in said and ".png" not in said
    assert code not in late or kind == "SIGKILL" or not waited, (code, said)
    return None if ended else (said, code)


def finish(command, out):
    process = start(command, out)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == FINISHED, said.decode()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ends", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="*", default=list(COMMANDS))
    wanted = parser.parse_args()
    generator, ends, equal, finished = random.Random(wanted.seed), Counter(), Counter(), Counter()
    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    for name, text in FILES.items():
        Path(name).write_text(text)
    undisturbed = {}
    for name in wanted.commands:
        finish(COMMANDS[name], folder / "undisturbed" / str(len(undisturbed)))
        out = folder / "undisturbed" / str(len(undisturbed))
        undisturbed[name] = [COMMANDS[name].outcome(out, rows) for rows in (False, True)]
    while ends.total() < wanted.ends:
        name = min(wanted.commands, key=lambda each: sum(ends[each, kind] for kind in ALL))
        command, out = COMMANDS[name], folder / "out" / str(finished.total())
        rows = True
        for _ in range(8):
            kind = min(command.ends, key=lambda kind: (ends[name, kind], generator.random()))
            if one_end(command, kind, out, generator) is None:
                break
            ends[name, kind] += 1
            rows &= kind != "full disk"
        finish(command, out)
        finished[name] += 1
        equal[name] += command.outcome(out, rows) == undisturbed[name][rows]
        shutil.rmtree(out)
        counts = ", ".join(f"{kind} {ends[name, kind]}" for kind in command.ends)
        sys.stdout.write(f"{name}: {counts}; {equal[name]} of {finished[name]} equal\n")
        sys.stdout.flush()
    shutil.rmtree(folder)
    total = f"{equal.total()} of {finished.total()} outcomes equal"
    sys.stdout.write(f"{ends.total()} ends, {total}\n")
    return equal.total() != finished.total()


if __name__ == "__main__":
    sys.exit(main())
