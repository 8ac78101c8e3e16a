"""Fast-weight memory for agents and sequences, and the baselines to compare it with.

A name is imported when it is first used, so that what needs no tensors starts without PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fwrl.config import ConfigError
    from fwrl.core import MemoryCore, state_size, unroll_by_steps
    from fwrl.cores import CORES, CoreConfig
    from fwrl.feature_maps import FEATURE_MAPS, FeatureMap
    from fwrl.feature_maps.random import redraw_when_due
    from fwrl.kernels import KERNELS, kernel_for, scan, use_kernel
    from fwrl.python.agent import Agent, load
    from fwrl.python.training import Run, train
    from fwrl.run.iteration import Iteration
    from fwrl.stack import ResidualStack, StackConfig
    from fwrl.state import detach_state, map_tensors, take_rows, tensors_in, where_state
    from fwrl.update_rules import UPDATE_RULES, Write

__all__ = [
    "CORES",
    "FEATURE_MAPS",
    "KERNELS",
    "UPDATE_RULES",
    "Agent",
    "ConfigError",
    "CoreConfig",
    "FeatureMap",
    "Iteration",
    "MemoryCore",
    "ResidualStack",
    "Run",
    "StackConfig",
    "Write",
    "detach_state",
    "kernel_for",
    "load",
    "map_tensors",
    "redraw_when_due",
    "scan",
    "state_size",
    "take_rows",
    "tensors_in",
    "train",
    "unroll_by_steps",
    "use_kernel",
    "where_state",
]

_NAMES = {
    "config": ("ConfigError",),
    "core": ("MemoryCore", "state_size", "unroll_by_steps"),
    "cores": ("CORES", "CoreConfig"),
    "feature_maps": ("FEATURE_MAPS", "FeatureMap"),
    "feature_maps.random": ("redraw_when_due",),
    "kernels": ("KERNELS", "kernel_for", "scan", "use_kernel"),
    "python.agent": ("Agent", "load"),
    "python.training": ("Run", "train"),
    "run.iteration": ("Iteration",),
    "stack": ("ResidualStack", "StackConfig"),
    "state": ("detach_state", "map_tensors", "take_rows", "tensors_in", "where_state"),
    "update_rules": ("UPDATE_RULES", "Write"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'fwrl' has no attribute {name!r}")
    found = getattr(import_module(f"fwrl.{_MODULES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
