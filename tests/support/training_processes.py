"""Starts processes that train together as ``torchrun`` would, without ``torchrun``.

The test process holds their rendezvous store, on a port that the system chooses. Every wait has a
time limit, after which all processes are killed.
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
def process_variables(count):
    """The environment variables of each of ``count`` processes, while the store is open."""
    store = TCPStore("localhost", 0, is_master=True, timeout=timedelta(seconds=PATIENCE))
    shared = {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        # the store exists: rank 0 must not open another
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": "1",
    }
    yield [shared | {"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(count)]


@contextmanager
def start_commands(words_of_each, folder):
    """Processes of ``fwrl``, one for each list of words, with their output in pipes."""
    with process_variables(len(words_of_each)) as variables:
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


def collect_outputs(processes):
    """Wait for all processes; return exit code, standard output and error of each."""
    spoken = [process.communicate(timeout=PATIENCE) for process in processes]
    return [(p.returncode, *words) for p, words in zip(processes, spoken, strict=True)]


class ProcessGroup:
    """Processes joined in one group; a call runs a function in all of them at the same time."""

    def __init__(self, count):
        self.count, self.pipes, self.processes = count, [], []

    def start(self):
        context = multiprocessing.get_context("spawn")
        with process_variables(self.count) as variables:
            for own in variables:
                here, there = context.Pipe()
                process = context.Process(target=_serve_calls, args=(there, own), daemon=True)
                process.start()
                self.pipes.append(here)
                self.processes.append(process)
            # returns when all have joined
            self(distributed.num_processes)

    def __call__(self, function, *arguments):
        """The value that the function returned in each process."""
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
            # not terminate: a process that has trained ignores SIGTERM
            process.kill()
            process.join()
        # after a failure the next call starts new processes
        self.pipes, self.processes = [], []


def _serve_calls(pipe, variables):
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
