"""The papers' benchmarks, one command each: what is measured, with the published figures beside."""

from importlib import import_module

from fwrl.bench.benchmark import Benchmark
from fwrl.config import ConfigError, nearest

# Each is the constant BENCHMARK of the module of its name, imported when it is asked for.
BENCHMARKS: dict[str, str] = {
    "retrieval": "how many pairs a memory can hold (Schlag et al. 2021, setting 1)",
    "favor": "how well random features approximate attention (Choromanski et al. 2021)",
    "recall": "how many pairs each memory learns to recall, by its size (Arora et al. 2023)",
    "update": "whether a memory can replace what it holds (Schlag et al. 2021, setting 2)",
}


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of this name.

    Raises:
        ConfigError: If there is none.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"benchmark is {name!r}; {nearest(name, BENCHMARKS)}")
    return import_module(f"fwrl.bench.{name}").BENCHMARK
