"""Policies in another program's hands: a step by ONNX is a step by PyTorch, resets included."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fwrl.cores import CORES

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

TESTS = Path(__file__).parent
QUICK = {"fast_weight"}


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k in QUICK else pytest.mark.slow) for k in CORES]
)
def test_five_hundred_steps_with_resets_are_the_same(kind):
    command = [sys.executable, TESTS / "onnx_agreement.py", kind]
    environment = os.environ | {"PYTHONPATH": str(TESTS.parent)}
    ended = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=280, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["inputs"][:5] == [
        "observation.seen", "observation.sign", "previous_action", "previous_reward", "elapsed",
    ]  # fmt: skip
    assert found["outputs"][:3] == ["log_probs", "action", "value"]
    assert found["said"]["steps"] == 7
    assert found["said"]["policy"]["config"]["core"]["kind"] == kind
    # one in twenty, in each of three streams
    assert found["starts"] > 40
    assert found["farthest"] < 1e-5
