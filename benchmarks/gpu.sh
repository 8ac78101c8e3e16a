#!/usr/bin/env bash
# What can only be tried where there is CUDA, in at most eight minutes: the tests that need it, a task
# on the device with CUDA graphs, the speed of what runs on it, and Pong for the time that is left.
# `pip install 'fwrl[gpu]'` adds rows of flash-linear-attention.
#
#   benchmarks/gpu.sh [FOLDER FOR WHAT IT FINDS]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-docs/results/gpu}
python=${PYTHON:-.venv/bin/python}
[ -x "$(command -v "$python")" ] || python=python3

"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
    echo "there is no CUDA device here" >&2
    exit 1
}
mkdir -p "$out"
exec > >(tee "$out/output.txt") 2>&1
ends=$((SECONDS + 470))
"$python" -c 'import torch; print(torch.cuda.get_device_name(), "torch", torch.__version__)'

# what comes later is worth having also where something fails; what failed decides the exit code
failed=0
echo "== tests"
timeout 120 "$python" -m pytest -q -m gpu || failed=1

echo "== RepeatPrevious on the device"
PYTHONPATH=. timeout 90 "$python" benchmarks/gpu_graphs.py --seconds 40 || failed=1

# last what needs the slow reference; what time runs out for is saved so far, and the same command continues
echo "== speed"
timeout 150 "$python" -m fwrl bench speed --out "$out/speed" device=cuda \
    'groups=[layer,length,acting,memory,throughput,update,training,kernels]' \
    'training_threads=[1]' 'training_envs=[64]' 'layer_batches=[8,64]' \
    'update_lengths=[128,512,2048]' || failed=1

echo "== Pong"
left=$((ends - SECONDS))
if [ "$left" -gt 30 ]; then
    # stopped by a signal it saves its run and says so by its exit code
    timeout -s INT "$left" "$python" -m fwrl train configs/atari/pong.yaml device=cuda \
        --run-dir "$out/pong" --fresh || [ $? = 124 ] || failed=1
fi
exit "$failed"
