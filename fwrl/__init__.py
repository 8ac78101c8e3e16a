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
    from fwrl.stack import ResidualStack, StackConfig
    from fwrl.state import detach_state, map_tensors, take_rows, tensors_in, where_state
    from fwrl.update_rules import UPDATE_RULES, Write

__all__ = [
    "CORES",
    "FEATURE_MAPS",
    "KERNELS",
    "UPDATE_RULES",
    "ConfigError",
    "CoreConfig",
    "FeatureMap",
    "MemoryCore",
    "ResidualStack",
    "StackConfig",
    "Write",
    "detach_state",
    "kernel_for",
    "map_tensors",
    "redraw_when_due",
    "scan",
    "state_size",
    "take_rows",
    "tensors_in",
    "unroll_by_steps",
    "use_kernel",
    "where_state",
]

# Where each name is at home.
_HOMES = {
    "CORES": "cores",
    "FEATURE_MAPS": "feature_maps",
    "KERNELS": "kernels",
    "UPDATE_RULES": "update_rules",
    "ConfigError": "config",
    "CoreConfig": "cores",
    "FeatureMap": "feature_maps",
    "MemoryCore": "core",
    "ResidualStack": "stack",
    "StackConfig": "stack",
    "Write": "update_rules",
    "detach_state": "state",
    "kernel_for": "kernels",
    "map_tensors": "state",
    "redraw_when_due": "feature_maps.random",
    "scan": "kernels",
    "state_size": "core",
    "take_rows": "state",
    "tensors_in": "state",
    "unroll_by_steps": "core",
    "use_kernel": "kernels",
    "where_state": "state",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'fwrl' has no attribute {name!r}")
    found = getattr(import_module(f"fwrl.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
