"""A rule, a feature map and a core of one's own: each by the one edit that is promised, no more."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPIED = ("fwrl", "agents", "envs")

RULE = '''def halving_rule(weights: FastWeights, write: Write) -> FastWeights:
    """Halve, then add.

    ``W <- W / 2 + k v``
    """
    return sum_rule(0.5 * weights, write)


'''
MAP = '''def square(x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B K"]:
    """Features that are squares."""
    return x.square()


'''
CORE = '''"""A trace: a running mean of the inputs."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from fwrl.core import About, MemoryCore, MemoryCoreConfig, by_steps


class TraceConfig(MemoryCoreConfig):
    """A running mean of the inputs, read by a linear map."""

    about: ClassVar[About] = About(
        update="w <- w / 2 + x / 2", cost="D^2", parallel=False, source="a control"
    )
    kind: Literal["trace"] = "trace"

    @override
    def build(self, input_size: int) -> "Trace":
        return Trace(input_size)


class Trace(MemoryCore[Tensor]):
    """State: ``[B, D]``, the running mean."""

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.read = nn.Linear(input_size, input_size)

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> Tensor:
        return torch.zeros(batch_size, self.input_size, device=device)

    @override
    def step(self, x: Float[Tensor, "B D"], state: Tensor) -> tuple[Float[Tensor, "B E"], Tensor]:
        state = (state + x) / 2
        return self.read(state), state

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: Tensor, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], Tensor]:
        return by_steps(self.step, x, state, starts, torch.zeros_like(state))
'''
COMMANDS = """
import sys
from command_line import run_command

quick = ["env.num_envs=8", "ppo.num_steps=40", "stack.width=16", "total_steps=640"]
for what in ("cores", "rules", "features"):
    assert run_command("list", what) == 0
for name, *settings in (
    ["ours", "core.update_rule=halving", "core.feature_map=square"], ["core", "core.kind=trace"]
):
    config = f"{sys.argv[1]}/configs/quickstart.yaml"
    assert run_command("train", config, *quick, *settings, "--run-dir", name) == 0
    assert run_command("inspect", name, "--max-steps", 5) == 0
    assert run_command("export", name, f"{name}.safetensors") == 0
    assert run_command("evaluate", f"{name}.safetensors", "--episodes", 1) == 0
"""


def test_what_is_added_by_one_edit_is_listed_trained_inspected_and_exported(tmp_path):
    for package in COPIED:
        shutil.copytree(ROOT / package, tmp_path / package)
    add(tmp_path / "fwrl/update_rules.py", "UPDATE_RULES: ", '"halving": Rule(halving_rule)', RULE)
    add(tmp_path / "fwrl/feature_maps/__init__.py", "FEATURE_MAPS: ", '"square": Map(square)', MAP)
    add(tmp_path / "fwrl/cores/__init__.py", "CORES: ", '"trace": _of("trace", "TraceConfig")')
    (tmp_path / "fwrl/cores/trace.py").write_text(CORE)
    path = os.pathsep.join([str(tmp_path), str(ROOT / "tests/support")])
    ended = subprocess.run(
        [sys.executable, "-c", COMMANDS, str(ROOT)], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    for line in (r"halving +Halve, then add\.", r"square +Features that are squares\."):
        assert re.search(line, ended.stdout)
    assert re.search(r"trace +128 floats +sequential", ended.stdout)
    assert re.search(r"kernel 'reference' scans .*halving", ended.stdout)
    # a rule is linear unless its record denies it, and an unknown core has no recall map
    assert "no exact map" not in (tmp_path / "ours/report.html").read_text()
    assert "no exact map" in (tmp_path / "core/report.html").read_text()


def add(file, table, entry, function=""):
    """Put an entry at the end of a table, and a function before it."""
    text = file.read_text()
    before, found, after = text.partition(f"\n{table}")
    assert found
    entries, end, rest = after.partition("\n}\n")
    assert end
    file.write_text(f"{before}\n{function}{table}{entries}\n    {entry},{end}{rest}")
