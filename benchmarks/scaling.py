"""Environment steps per second of one training in one, two and more processes on this machine.

``python benchmarks/scaling.py [CONFIG [KEY=VALUE ...]] [--processes 1 2] [--rounds 3]`` trains
with each number of processes in turn, round after round, so that whatever else the machine does
meets all of them; it prints every speed, and the ratio of the medians to one process's.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
NEVER = 10**12


def speed(config: str, overrides: list[str], processes: int, steps: int) -> float:
    """Steps per second, of all processes, without start and evaluation."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={processes}", str(ROOT / "train.py"), config, *overrides),
            *(f"total_steps={steps * processes}", f"evaluation.every_steps={NEVER}"),
            *("evaluation.episodes=1", "num_threads=1", "--run-dir", f"{folder}/run"),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with Path(folder, "run", "metrics.csv").open(newline="") as file:
            *_, last = csv.DictReader(file)
    return float(last["time/fps"])


def main() -> None:
    """One line for each number of processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default=str(ROOT / "configs/quickstart.yaml"))
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=50_000, help="of each process")
    chosen = parser.parse_args()
    speeds: dict[int, list[float]] = {count: [] for count in chosen.processes}
    for _ in range(chosen.rounds):
        for count, found in speeds.items():
            found.append(speed(chosen.config, chosen.overrides, count, chosen.steps))
    first = statistics.median(speeds[chosen.processes[0]])
    for count, found in speeds.items():
        listed = ", ".join(f"{each:,.0f}" for each in found)
        ratio = statistics.median(found) / first
        sys.stdout.write(f"{count} processes: {ratio:.2f}  ({listed} steps/s)\n")


if __name__ == "__main__":
    main()
