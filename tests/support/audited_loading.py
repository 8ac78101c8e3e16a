"""Loads files under an audit hook and reports errors, audit events, time and memory of each.

``load_audited`` runs this file as a program, because an audit hook cannot be removed: it reads a
list of ``[route, path]`` in JSON from standard input and writes a list of reports.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

# PyTorch imports its compiler, a part of its own, at the first operation on the meta device
import torch._dynamo  # noqa: F401

from agents.saving import find_checkpoint, load_policy
from fwrl.bench.results import read_rows
from fwrl.config import ConfigError
from fwrl.files.checkpoint import CheckpointError, load_checkpoint, verify_checkpoint
from fwrl.run.config import load_run_config
from fwrl.run.directory import read_run_config
from fwrl.run.evaluation import Request, evaluate_run

# Bytes that loading may take beyond what the process had before; the promise is 200 MB.
ROOM = 200 * 10**6
# Audit events that loading must not cause; an ``open`` for writing is another.
WATCHED = (
    "exec", "compile", "import", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn",
    "os.startfile", "subprocess.", "socket.", "pickle.", "marshal.", "ctypes.", "code.__new__",
    "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate",
    "os.chmod", "os.chown", "os.putenv", "shutil.", "tempfile.", "urllib.", "http.", "ftplib.",
    "webbrowser.", "pty.", "signal.", "sys.addaudithook", "sys.setprofile", "sys.settrace",
)  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
ROUTES = {
    "policy": load_policy,
    "checkpoint": lambda path: load_checkpoint(Path(path)),
    "verify": lambda path: verify_checkpoint(Path(path)),
    "config": load_run_config,
    "run": lambda path: read_run_config(Path(path)),
    "best": lambda path: find_checkpoint(Path(path)),
    "evaluate": lambda path: evaluate_run(Path(path), Request(1)),
    "table": lambda path: read_rows(Path(path)),
    # must be reported, or the audit hook does not work
    "canary system": lambda _: os.system("true"),
    "canary exec": exec,
    "canary import": __import__,
    "canary write": lambda path: Path(path).write_text(""),
}
events = []
# holds one entry while a file is loaded
watching = []


def load_audited(these, before=(), bounded=True):
    """The report on each of ``these`` pairs of route and path, loaded in an audited process.

    Args:
        these: The pairs that are loaded under the audit hook.
        before: Pairs that are loaded before the hook is installed.
        bounded: Whether the address space has a limit.
    """
    child = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps({"these": these, "before": before, "bounded": bounded}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    return json.loads(child.stdout.splitlines()[-1])


def watch(event, arguments):
    if not watching:
        return
    if event == "open":
        path, mode, flags = arguments
        if (isinstance(flags, int) and flags & WRITING) or set(str(mode or "r")) & set("wax+"):
            events.append(f"open {path!r} for writing")
    elif event.startswith(WATCHED):
        events.append(f"{event} {str(arguments)[:200]}")


def report(route, path):
    events.clear()
    began, outcome, message = time.process_time(), None, ""
    watching.append(True)
    try:
        ROUTES[route](path)
    except (CheckpointError, ConfigError) as error:
        watching.clear()
        outcome, message = type(error).__name__, str(error)
    except BaseException as error:
        watching.clear()
        outcome, message = f"unexpected {type(error).__name__}", str(error)[:300]
    watching.clear()
    return {
        "error": outcome,
        "message": message,
        "events": list(events),
        "seconds": time.process_time() - began,
        "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def in_use():
    """The bytes of address space in use."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main():
    wanted = json.load(sys.stdin)
    # imports everything that loading and refusing honest files needs before the hook is installed
    for route, path in wanted["before"]:
        report(route, path)
    sys.addaudithook(watch)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if wanted["bounded"]:
        limit = in_use() + 2 * ROOM
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    reports = [report(route, path) for route, path in wanted["these"]]
    json.dump({"peak": peak, "reports": reports}, sys.stdout)


if __name__ == "__main__":
    main()
