"""The chunked kernels against the reference: forward and backward, as a ratio measured in one run.

``python benchmarks/kernels.py`` prints a table; `make bench` runs the parity tests before it.
"""

import statistics
import time

import torch
from rich.console import Console
from rich.table import Table

from fwrl import UPDATE_RULES, Write, scan
from fwrl.kernels import CHUNKED, channelwise

REPEATS = 7
# streams, times, heads, key and value size
SHAPES = [(16, 52, 4, 32), (16, 104, 4, 32), (64, 104, 4, 32), (16, 512, 4, 64)]


def problem(
    rule: str, shape: tuple[int, int, int, int]
) -> tuple[torch.Tensor, torch.Tensor, Write, torch.Tensor]:
    """State, queries, writes and starts (every fifty times) of one scan."""
    streams, times, heads, size = shape
    generator = torch.Generator().manual_seed(0)

    def random(*axes: int) -> torch.Tensor:
        return torch.randn(streams, times, heads, *axes, generator=generator)

    key, query = (torch.nn.functional.normalize(random(size), dim=-1) for _ in range(2))
    channels = size if UPDATE_RULES[rule] in channelwise.RULES else 1
    decay, removal_rate = random(channels).sigmoid(), random(size).sigmoid()
    # each rule takes what it knows
    write = Write(key, random(size), random(1).sigmoid(), decay, key.clone(), removal_rate)
    for leaf in (query, *write):
        assert leaf is not None
        leaf.requires_grad_()
    starts = torch.rand(streams, times, generator=generator) < 0.02
    return torch.zeros(streams, heads, size, size), query, write, starts


def seconds(rule: str, shape: tuple[int, int, int, int], kernel: str) -> float:
    """Of one forward and backward pass."""
    state, query, write, starts = problem(rule, shape)
    began = time.perf_counter()
    values, end = scan(UPDATE_RULES[rule], state, query, write, starts, kernel=kernel)
    (values.square().mean() + end.square().mean()).backward()
    return time.perf_counter() - began


def main() -> None:
    """Interleaved, so that a disturbance hits both."""
    torch.set_num_threads(1)
    table = Table("rule", "B, T, H, K", "reference ms", "chunked ms", "ratio")
    for rule in (name for name, rule in UPDATE_RULES.items() if rule in CHUNKED):
        for shape in SHAPES:
            pairs = [
                (seconds(rule, shape, "reference"), seconds(rule, shape, "chunked"))
                for _ in range(REPEATS)
            ]
            slow, fast = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
            ratio = statistics.median(a / b for a, b in pairs)
            table.add_row(rule, str(shape)[1:-1], f"{slow:.1f}", f"{fast:.1f}", f"{ratio:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
