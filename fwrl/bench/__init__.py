"""The papers' benchmarks, one command each: what is measured, with the published figures beside."""

from importlib import import_module

from fwrl.bench.benchmark import Benchmark
from fwrl.config import ConfigError, nearest

# Each is the constant BENCHMARK of the module of its name, imported when it is asked for.
BENCHMARKS: dict[str, str] = {
    "retrieval": "how many pairs a memory can hold (Schlag et al. 2021a, setting 1)",
    "update": "whether a memory can replace what it holds (Schlag et al. 2021a, setting 2)",
    "recall": "how many pairs each memory learns to recall, by its size (Arora et al. 2023)",
    "code": "whether programs are followed, variables overwritten (Irie et al. 2021)",
    "listops": "whether lists inside lists are evaluated in one reading (Irie et al. 2021)",
    "sorting": "which memory still counts what has left its window (Martins et al. 2022)",
    "catbabi": "answers in an endless stream of stories (Schlag et al. 2021b)",
    "lm": "language modelling, perplexity or bits per byte (Schlag et al. 2021a, tables 2 to 5)",
    "translation": "BLEU with the memory in the decoder (Schlag et al. 2021a, table 1)",
    "favor": "how well random features approximate attention (Choromanski et al. 2021)",
    "metarl": "what an agent learns to find out on unseen graphs (Schlag et al. 2021b)",
    "speed": "how fast all of it is: ratios to LSTMs, attention, RecurrentPPO and the machine",
}


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of this name.

    Raises:
        ConfigError: If there is none.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"benchmark is {name!r}; {nearest(name, BENCHMARKS)}")
    return import_module(f"fwrl.bench.{name}").BENCHMARK
