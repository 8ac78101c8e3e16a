"""The Triton kernels, compiled to machine code for GPUs that are not there.

Each launch is recorded as the scan makes it, on pretended CUDA tensors, forward and backward; what
is compiled for it are Triton's own steps down to a cubin, whose use of registers and memory is read
from it. What spills from registers into local memory fails.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import fwrl.kernels.triton.kernels as triton_kernels
from benchmarks.gpu_audit.pretended import backward, nothing_crosses, pretended_cuda
from fwrl.kernels import scan
from fwrl.kernels.chunked.scan import computes
from fwrl.update_rules import UPDATE_RULES, Write

# NVIDIA A100 and H100
TARGETS = (80, 90)
# keys and values of a head
SIZES = ((8, 8), (16, 16), (32, 32), (40, 24), (64, 64), (128, 128), (256, 256))
# in bytes; the most that a program may have is 164 KB on A100 and 228 KB on H100
SHARED_LIMIT = 48 * 1024

POINTERS = {torch.float32: "*fp32", torch.uint8: "*u8"}


class Launch(NamedTuple):
    """One call of a kernel: what it is compiled for."""

    kernel: str
    signature: tuple[tuple[str, Any], ...]
    constants: tuple[tuple[str, Any], ...]
    # what the assembler is told
    options: tuple[tuple[str, int], ...]


class Usage(NamedTuple):
    """The needs of one program of a compiled kernel."""

    registers: int
    shared: int
    local: int


def launches() -> dict[Launch, str]:
    """Every kernel that the scan of a rule launches, and for which rules and sizes."""
    found: dict[Launch, list[str]] = {}
    for name, rule in UPDATE_RULES.items():
        for size in SIZES if computes(rule) else ():
            for with_fresh in (True, False):
                with recorded(found, name):
                    _scan(rule, size, with_fresh)
    return {launch: ", ".join(dict.fromkeys(names)) for launch, names in found.items()}


def _scan(rule: Any, size: tuple[int, int], with_fresh: bool) -> None:
    """One scan with gradients and one without, of pretended tensors."""
    (key_size, value_size), (streams, times, heads) = size, (3, 20, 2)
    with pretended_cuda():

        def leaf(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, requires_grad=True)

        query, key = leaf(streams, times, heads, key_size), leaf(streams, times, heads, key_size)
        value = leaf(streams, times, heads, value_size)
        beta, decay = leaf(streams, times, heads, 1), leaf(streams, times, heads, 1)
        state = leaf(streams, heads, key_size, value_size)
        fresh = leaf(1, heads, key_size, value_size) if with_fresh else None
        starts = torch.zeros(streams, times, dtype=torch.bool)
        given = rule, state, query, Write(key, value, beta, decay), starts, fresh, "triton"
        with nothing_crosses():
            values, end = scan(*given)
            backward(values.sum() + end.sum())
            with torch.no_grad():
                scan(*given)


@contextmanager
def recorded(found: dict[Launch, list[str]], name: str) -> Iterator[None]:
    """A block in which launches are recorded under a name, not made."""
    kept = {kernel: getattr(triton_kernels, kernel) for kernel in ("forward", "backward")}
    for kernel, function in kept.items():
        setattr(triton_kernels, kernel, _Recorder(kernel, function.arg_names, found, name))
    try:
        yield
    finally:
        for kernel, function in kept.items():
            setattr(triton_kernels, kernel, function)


class _Recorder:
    """Stands for a kernel: ``recorder[programs](...)`` notes the arguments."""

    def __init__(
        self, kernel: str, names: list[str], found: dict[Launch, list[str]], rule: str
    ) -> None:
        self.kernel, self.names, self.found, self.rule = kernel, names, found, rule

    def __getitem__(self, programs: tuple[int, int]) -> Any:
        assert all(0 < count < 2**31 for count in programs), f"{programs} programs"
        return self._note

    def _note(self, *args: Any, **constants: Any) -> None:
        options = {name: constants.pop(name) for name in ("num_warps", "maxnreg")}
        given = dict(zip(self.names, args, strict=False))
        missing = set(self.names) - given.keys() - constants.keys()
        assert not missing, f"{self.kernel} is launched without {missing}"
        signature = tuple((name, _type(x)) for name, x in given.items())
        launch = Launch(self.kernel, signature, tuple(constants.items()), tuple(options.items()))
        self.found.setdefault(launch, []).append(self.rule)


def _type(x: Any) -> Any:
    """The type of an argument in Triton's words.

    Raises:
        AssertionError: For a tensor that a kernel cannot read.
    """
    if isinstance(x, tuple):
        return tuple(map(_type, x))
    if isinstance(x, int):
        return "i32"
    assert x.is_cuda, f"a kernel is given a tensor on {x.device}"
    assert x.is_contiguous(), "a kernel is given a tensor with gaps"
    return POINTERS[x.dtype]


def compiled(launch: Launch, capability: int, kernels: Any = triton_kernels) -> Usage:
    """The needs of a launch's machine code on a GPU of this capability."""
    signature = dict(launch.signature) | {name: "constexpr" for name, _ in launch.constants}
    source = ASTSource(
        getattr(kernels, launch.kernel),
        signature,
        constexprs=dict(launch.constants),
        # memory that PyTorch gives begins at multiples of 16 bytes
        attrs={path: [["tt.divisibility", 16]] for path in _pointers(launch.signature)},
    )
    target = GPUTarget("cuda", capability, 32)
    code = triton.compile(source, target=target, options=dict(launch.options))
    return usage(code.asm["cubin"], code.metadata.shared)


def attempted(job: tuple[Launch, int]) -> Usage | str:
    """The needs of a launch, or why it does not compile; other processes can call it."""
    try:
        return compiled(*job)
    # such as an error of the compiler, which is this program's result
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _pointers(signature: tuple[tuple[str, Any], ...]) -> list[tuple[int, ...]]:
    """Where pointers stand among the arguments."""
    found: list[tuple[int, ...]] = []
    for i, (_, kind) in enumerate(signature):
        if isinstance(kind, tuple):
            found += [(i, j) for j in range(len(kind))]
        elif kind.startswith("*"):
            found.append((i,))
    return found


def usage(cubin: bytes, shared: int) -> Usage:
    """Registers and memory, as NVIDIA's tool reads them from machine code."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [os.fspath(tool), "-res-usage", os.fspath(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers = {name: int(number) for name, number in re.findall(r"(\w+):(\d+)", text)}
    # spills are counted as stack or as local memory, depending on the architecture
    return Usage(numbers["REG"], shared, numbers["STACK"] + numbers["LOCAL"])


def complaint(found: Usage) -> str | None:
    """The fault in a kernel's needs, if there is one."""
    if found.local:
        return f"spills {found.local} bytes per thread into local memory"
    if found.shared > SHARED_LIMIT:
        return f"needs {found.shared:,} bytes of shared memory, more than {SHARED_LIMIT:,}"
    return None
