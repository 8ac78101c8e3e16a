"""Several processes that train together, as a launcher would start them, without a launcher.

The store where they meet is here and on a port that the system chooses; whoever waits here waits
for a limited time, and then everybody is killed.
"""

import multiprocessing
import os
import subprocess
import sys
import traceback
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch.distributed import TCPStore

from agents import distributed

PATIENCE = 60


@contextmanager
def environments(count):
    """The environment variables of each of ``count`` processes; alive as long as the store is."""
    store = TCPStore("localhost", 0, is_master=True, timeout=timedelta(seconds=PATIENCE))
    shared = {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        # it is there already: nobody else shall open one
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": "1",
    }
    yield [shared | {"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(count)]


@contextmanager
def commands(words_of_each, folder):
    """The processes of ``fwrl`` with these words, each with its output in pipes."""
    with environments(len(words_of_each)) as variables:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "fwrl", *map(str, words)],
                cwd=folder,
                env=os.environ | own,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for words, own in zip(words_of_each, variables, strict=True)
        ]
        try:
            yield processes
        finally:
            for process in processes:
                process.kill()
                process.communicate()


def outcomes(processes):
    """Exit code, output and errors of each, once all have ended."""
    spoken = [process.communicate(timeout=PATIENCE) for process in processes]
    return [(p.returncode, *words) for p, words in zip(processes, spoken, strict=True)]


class Group:
    """Processes that have joined; a call runs a function in all of them at the same time."""

    def __init__(self, count):
        self.count, self.pipes, self.processes = count, [], []

    def start(self):
        context = multiprocessing.get_context("spawn")
        with environments(self.count) as variables:
            for own in variables:
                here, there = context.Pipe()
                process = context.Process(target=_work, args=(there, own), daemon=True)
                process.start()
                self.pipes.append(here)
                self.processes.append(process)
            # nobody has joined before all have
            self(distributed.num_processes)

    def __call__(self, function, *arguments):
        """What the function returned in each process."""
        if not self.processes:
            self.start()
        for pipe in self.pipes:
            pipe.send((function, arguments))
        results = [pipe.recv() for pipe in self.pipes if pipe.poll(PATIENCE)]
        broken = [result for went_well, result in results if not went_well]
        if broken or len(results) < len(self.pipes):
            self.close()
            raise AssertionError("\n".join(broken) or f"no answer in {PATIENCE} seconds")
        return [result for _, result in results]

    def close(self):
        for process in self.processes:
            # not terminate: whoever has trained ignores that
            process.kill()
            process.join()
        # after a failure the next call begins anew
        self.pipes, self.processes = [], []


def _work(pipe, variables):
    os.environ.update(variables)
    torch.set_num_threads(1)
    try:
        distributed.join(torch.device("cpu"))
        while True:
            function, arguments = pipe.recv()
            pipe.send((True, function(*arguments)))
    except EOFError:
        pass
    except Exception:
        pipe.send((False, traceback.format_exc()))
