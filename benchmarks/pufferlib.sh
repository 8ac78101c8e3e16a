#!/usr/bin/env bash
# Makes the virtual environment in which `fwrl bench speed` trains PufferLib's published core, an
# LSTM agent; without it those rows are left out. It stands on this project's own environment, so
# that both run on one PyTorch. Needs Linux, a C++ compiler, and what `make test` installs.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-pufferlib
python=${PYTHON:-.venv/bin/python}

"$python" -m venv --clear "$venv"
packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -c 'import sys, sysconfig; print(sysconfig.get_path("purelib")); print(sys.argv[1])' \
    "$PWD" >"$packages/fwrl.pth"
# its own pin of PyTorch is older; the training below is the check that it runs on this one
"$venv/bin/python" -m pip install --quiet --no-deps pufferlib-core==3.0.23
"$venv/bin/python" -m pip install --quiet pyro-ppl rich-argparse psutil

# the extension that it brings needs CUDA; this is its own source for the CPU, with the advantages
"$venv/bin/python" - "$packages/pufferlib" <<'BUILD'
import subprocess
import sys
import sysconfig
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths, library_paths

package = Path(sys.argv[1])
target = package / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
for built in package.glob("_C.*.so"):
    built.unlink()
subprocess.run(
    ["c++", "-O3", "-std=c++20", "-shared", "-fPIC",
     f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
     *(f"-I{path}" for path in (*include_paths(), sysconfig.get_path("include"))),
     str(package / "extensions/pufferlib.cpp"), "-o", str(target),
     *(f"-L{path}" for path in library_paths()), "-ltorch", "-ltorch_cpu", "-lc10"],
    check=True,
)  # fmt: skip
BUILD
"$venv/bin/python" benchmarks/pufferlib_lstm.py --check
echo "$venv is made; fwrl bench speed 'groups=[training]' measures it"
