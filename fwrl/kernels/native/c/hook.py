"""A hook that hatchling calls before it makes a wheel or an editable installation."""

import runpy
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = "fwrl/kernels/native/c"


class NativeBuildHook(BuildHookInterface[Any]):
    """Compiles the kernels; where that fails, the package is complete without them."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Build the library, and say that the wheel is for this platform."""
        folder = Path(self.root, HERE)
        try:
            library = runpy.run_path(str(folder / "build.py"))["build"](folder)
        except (OSError, subprocess.CalledProcessError, RuntimeError) as error:
            self.app.display_warning(f"no native kernels, but slower ones: {error}")
            return
        build_data["artifacts"].append(f"/{HERE}/{library.name}")
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
