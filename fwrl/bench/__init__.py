"""The papers' benchmarks, one command each, with the published results beside ours."""

from importlib import import_module
from typing import NamedTuple

from fwrl.bench.benchmark import Benchmark
from fwrl.config import ConfigError, nearest


class Listed(NamedTuple):
    """The module of a benchmark, and the question that it answers."""

    # below ``fwrl.bench``; imported, for its constant BENCHMARK, only when it is needed
    module: str
    question: str


BENCHMARKS: dict[str, Listed] = {
    "retrieval": Listed(
        "retrieval.benchmark", "how many pairs a memory can hold (Schlag et al. 2021a, setting 1)"
    ),
    "update": Listed(
        "retrieval.update",
        "whether a memory can replace what it holds (Schlag et al. 2021a, setting 2)",
    ),
    "recall": Listed(
        "recall.benchmark",
        "how many pairs each memory learns to recall, by its size (Arora et al. 2023)",
    ),
    "code": Listed(
        "algorithmic.code",
        "whether programs are followed, variables overwritten (Irie et al. 2021)",
    ),
    "listops": Listed(
        "algorithmic.listops",
        "whether lists inside lists are evaluated in one reading (Irie et al. 2021)",
    ),
    "sorting": Listed(
        "sorting.benchmark",
        "which memory still counts what has left its window (Martins et al. 2022)",
    ),
    "catbabi": Listed(
        "catbabi.benchmark", "answers in an endless stream of stories (Schlag et al. 2021b)"
    ),
    "lm": Listed(
        "lm.benchmark",
        "language modelling, perplexity or bits per byte (Schlag et al. 2021a, tables 2 to 5)",
    ),
    "translation": Listed(
        "translation.benchmark",
        "BLEU with the memory in the decoder (Schlag et al. 2021a, table 1)",
    ),
    "favor": Listed(
        "favor.benchmark",
        "how well random features approximate attention (Choromanski et al. 2021)",
    ),
    "metarl": Listed(
        "metarl.benchmark",
        "what an agent learns to find out on unseen graphs (Schlag et al. 2021b)",
    ),
    "speed": Listed(
        "speed", "how fast all of it is: ratios to LSTMs, attention, RecurrentPPO and the machine"
    ),
}


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of this name.

    Raises:
        ConfigError: If there is none.
    """
    check_name(name)
    return import_module(f"fwrl.bench.{BENCHMARKS[name].module}").BENCHMARK


def check_name(name: str) -> None:
    """Check that there is a benchmark of this name.

    Raises:
        ConfigError: If there is none.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"benchmark is {name!r}; {nearest(name, BENCHMARKS)}")
