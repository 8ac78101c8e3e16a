#!/usr/bin/env bash
# What can only be tried where there is CUDA, in under ten minutes: the tests that need it, then
# the speed of what runs on it. `pip install 'fwrl[gpu]'` adds rows of flash-linear-attention.
#
#   benchmarks/gpu.sh [FOLDER FOR THE TABLE]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/speed__gpu}
python=${PYTHON:-.venv/bin/python}
[ -x "$(command -v "$python")" ] || python=python3

"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
    echo "there is no CUDA device here" >&2
    exit 1
}
# the table is worth having also where a test fails; what failed decides the exit code
tests=0
timeout 200 "$python" -m pytest -q -m gpu || tests=$?

# last what needs the slow reference; what time runs out for is saved so far, and the same command continues
timeout 380 "$python" -m fwrl bench speed --out "$out" device=cuda \
    'groups=[layer,length,acting,memory,throughput,update,training,kernels]' \
    'training_threads=[1]' 'training_envs=[64]' 'layer_batches=[8,64]' \
    'update_lengths=[128,512,2048]'
exit "$tests"
