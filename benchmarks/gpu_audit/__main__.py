"""The audit of the GPU path on a machine without a GPU.

    make gpu-audit                                   or, with a CUDA build of PyTorch and triton:
    python -m benchmarks.gpu_audit [--self-test] [--table FILE]

Exit code 0 if nothing is wrong, 1 otherwise. ``--self-test`` plants faults, which must be found.
"""

# ruff: noqa: T201

import argparse
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
import triton

from benchmarks.gpu_audit.agents_on_device import checks
from benchmarks.gpu_audit.kernels import (
    TARGETS,
    Launch,
    Usage,
    attempted,
    complaint,
    launches,
)

Check = Callable[[], None]


def main() -> int:
    """Run the audit, or its own test."""
    parser = argparse.ArgumentParser(prog="gpu_audit", description=__doc__)
    parser.add_argument("--self-test", action="store_true", help="plant faults")
    parser.add_argument("--table", type=Path, help="where to write the table of kernels")
    chosen = parser.parse_args()
    if torch.version.cuda is None:
        print("gpu_audit: needs a CUDA build of PyTorch (no GPU): make gpu-audit")
        return 2
    if chosen.self_test:
        return test_itself()
    wrong = run(checks())
    wrong += compile_all(chosen.table)
    print(f"{wrong} of all are wrong" if wrong else "nothing is wrong")
    return 1 if wrong else 0


def failure(check: Check) -> str | None:
    """The error of a check in one line, if it fails."""
    try:
        check()
    # whatever it is, the others go on
    except Exception as error:
        text = " ".join(str(error).split())
        return f"{type(error).__name__}: {text}"[:300]
    return None


def run(named: dict[str, Check]) -> int:
    """Run checks, and print those that fail; returns how many do."""
    wrong = 0
    for name, check in named.items():
        error = failure(check)
        wrong += error is not None
        if error is not None:
            print(f"WRONG  {name}: {error}", flush=True)
    print(f"pretended CUDA: {len(named) - wrong} of {len(named)} checks pass", flush=True)
    return wrong


def compile_all(table: Path | None) -> int:
    """Compile every launch for every target; returns how many are wrong."""
    found = launches()
    jobs = [(launch, capability) for launch in found for capability in TARGETS]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        usages = list(pool.map(attempted, jobs, chunksize=8))
    wrong = 0
    for (launch, capability), usage in zip(jobs, usages, strict=True):
        what = usage if isinstance(usage, str) else complaint(usage)
        if what is not None:
            wrong += 1
            print(f"WRONG  {launch.kernel} of {found[launch]}, sm_{capability}: {what}", flush=True)
    print(f"triton {triton.__version__}: {len(jobs) - wrong} of {len(jobs)} programs pass")
    text = table_of(found, dict(zip(jobs, usages, strict=True)))
    if table is not None:
        table.write_text(text)
    print(text)
    return wrong


def table_of(found: dict[Launch, str], usages: dict[tuple[Launch, int], Usage | str]) -> str:
    """The most that any program of a kernel, rule and size needs, as a table in Markdown."""
    most: dict[tuple[str, str, str], dict[int, Usage]] = {}
    for (launch, capability), usage in usages.items():
        constants = dict(launch.constants)
        size = f"{constants['K']} x {constants['V']}"
        row = most.setdefault((launch.kernel, found[launch], size), {})
        if isinstance(usage, Usage):
            row[capability] = Usage(*map(max, row.get(capability, usage), usage))
    head = " | ".join(f"sm_{capability}" for capability in TARGETS)
    lines = [f"| kernel | rules | head | {head} |", "|---" * (3 + len(TARGETS)) + "|"]
    for (kernel, rules, size), row in most.items():
        cells = [" / ".join(map(str, row[c])) if c in row else "-" for c in TARGETS]
        lines.append(f"| {kernel} | {rules} | {size} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def test_itself() -> int:
    """Plant one fault after another; returns 1 if one is not found, or the audit is wrong."""
    from benchmarks.gpu_audit.planted import PLANTED  # noqa: PLC0415

    missed = 0
    for name, plant in PLANTED.items():
        error = failure(plant)
        missed += error is None
        print(f"{'MISSED' if error is None else 'found'}  {name}: {error}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
