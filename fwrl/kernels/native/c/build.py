"""Compile the kernels in C: ``python fwrl/kernels/native/c/build.py`` after a change of them.

Nothing is needed but a C compiler: no headers of PyTorch or Python. The library is called through
``ctypes``, so one of them serves every version of both.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

LIBRARY = "libfwrl.so"
# Sources that are compiled for each variant.
FILES = (
    *("scan", "channel_scan", "projected_scan", "gru", "lstm", "recurrent_delta"),
    *("fast_recurrence", "fast_weight_memory", "self_referential", "unit_silu", "residual"),
    *("choices", "adam", "rows", "convolution"),
)
HEADERS = (
    *("act", "activations", "calls", "groups", "heads", "lanes", "parts", "products", "spans"),
    *("vectors", "weights"),
)
SOURCES = ("dispatch.c", *(f"{name}.c" for name in FILES), *(f"{name}.h" for name in HEADERS))
# The instructions of each variant of the files that have several.
VARIANTS = {"baseline": [], "avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx512f", "-mfma"]}
FLAGS = [
    "-std=gnu11",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
]


def build(folder: Path) -> Path:
    """The library, compiled into this folder from the sources there.

    Raises:
        RuntimeError: Where there is no compiler.
        subprocess.CalledProcessError: If the sources do not compile.
    """
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None or sys.platform == "win32":
        raise RuntimeError("there is no C compiler (cc, gcc or clang)")
    # PyTorch has the threads loaded, and both then share them; elsewhere there is one
    flags = FLAGS + ["-fopenmp"] * (sys.platform == "linux")
    files = [("dispatch.c", "dispatch", [f'-DSOURCES="{digest(folder)}"'])]
    for variant in VARIANTS if platform.machine() in ("x86_64", "AMD64") else ["baseline"]:
        instructions = [f"-DVARIANT={variant}", *VARIANTS[variant]]
        files += [(f"{name}.c", f"{name}_{variant}", instructions) for name in FILES]
    # elsewhere: what a build that was killed has left lies in no repository and no wheel
    with tempfile.TemporaryDirectory() as scratch:
        for source, name, own in files:
            target = Path(scratch, f"{name}.o")
            subprocess.run(
                [compiler, *flags, *own, "-c", folder / source, "-o", target], check=True
            )
        parts = sorted(Path(scratch).glob("*.o"))
        new = folder / f"{LIBRARY}.{os.getpid()}"
        subprocess.run([compiler, "-shared", *parts, "-lm", "-o", new], check=True)
        # whoever has loaded the old one keeps it
        return new.replace(folder / LIBRARY)


def digest(folder: Path) -> str:
    """A hash of the sources: a library that was built from others is not used."""
    together = hashlib.sha256()
    for name in SOURCES:
        together.update((folder / name).read_bytes())
    return together.hexdigest()[:16]


if __name__ == "__main__":
    sys.stdout.write(f"{build(Path(__file__).parent)}\n")
