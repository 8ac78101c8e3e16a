"""Fast-weight memory for agents and sequences, and the baselines to compare it with."""

from fwrl.config import ConfigError
from fwrl.core import MemoryCore, state_size, unroll_by_steps
from fwrl.cores import CORES, CoreConfig
from fwrl.feature_maps import FEATURE_MAPS, FeatureMap
from fwrl.kernels import KERNELS, kernel_for, scan, use_kernel
from fwrl.random_features import redraw_when_due
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
