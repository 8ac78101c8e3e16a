"""A trained agent in a program: it acts, and does what the commands do with its run."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from agents.saving import load_policy
from agents.sb3 import SB3Policy
from envs import env_name
from envs.gymnasium_env import OF_PROGRAMS
from fwrl.cli.inspect.inspection import Wish, inspect_run
from fwrl.config import ConfigError
from fwrl.python.environments import MakeEnv, register
from fwrl.run.evaluation import Request, evaluate_run, film_run, stored_config
from fwrl.run.export import export_run


class Agent(SB3Policy):
    """A policy on disk, ready to act on the CPU, with all that the commands do with its run."""

    def __init__(self, path: Path, checkpoint: str) -> None:
        """The agent of a run's checkpoint, or of an exported file, whose environment is known.

        Raises:
            CheckpointError: If it does not exist, or is damaged.
        """
        super().__init__(load_policy(path, checkpoint))
        self.path, self.checkpoint = path, checkpoint

    def evaluate(
        self,
        episodes: int = 100,
        *,
        seed: int = 0,
        stochastic: bool = False,
        overrides: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Play whole episodes; returns what ``fwrl evaluate --json`` prints.

        Args:
            episodes: How many.
            seed: Of the first environment.
            stochastic: Sample actions instead of taking the best.
            overrides: ``env.KEY=VALUE`` texts: another environment.

        Raises:
            ConfigError: If the environment cannot be made here or does not fit the policy.
        """
        request = Request(episodes, self.checkpoint, stochastic, seed, overrides=overrides)
        return evaluate_run(self.path, request)

    def inspect(
        self, out: str | PathLike[str] | None = None, *, episodes: int = 1, seed: int = 0
    ) -> Path:
        """Write a page that shows what the memory recalled in an episode; returns its path.

        Args:
            out: The page; ``report.html`` in the run's directory unless given.
            episodes: How many.
            seed: Of the first one.
        """
        wish = Wish(self.checkpoint, episodes, seed)
        return inspect_run(self.path, None if out is None else Path(out), wish)

    def video(self, folder: str | PathLike[str], *, seed: int = 0, recall: bool = True) -> Path:
        """Write a video of one episode into a folder; returns its path.

        Args:
            folder: Made if it is not there.
            seed: Of the episode.
            recall: Whether it shows what each past step contributes.
        """
        request = Request(1, self.checkpoint, False, seed, Path(folder), recall)
        return film_run(self.path, request)

    def export(self, file: str | PathLike[str], *, force: bool = False) -> Path:
        """Write the policy as one file, ``.safetensors`` or ``.onnx``; returns its path.

        Args:
            file: Its name says which.
            force: Replace a file that is there.
        """
        export_run(self.path, Path(file), self.checkpoint, force)
        return Path(file)


def load(path: str | PathLike[str], env: MakeEnv | None = None, checkpoint: str = "best") -> Agent:
    """A trained agent; loading runs no code.

    Args:
        path: A run directory, or a file of ``fwrl export``.
        env: Makes the environment that the agent was trained in, if a program's function did.
        checkpoint: ``best`` (by evaluations), ``last``, or a step; only for a run.

    Raises:
        ConfigError: If there is no such run, or no function made its environment.
        CheckpointError: If there is no such checkpoint, or it is damaged.
    """
    path = Path(path)
    if env is not None:
        name = env_name(stored_config(path).env)
        # an id of Gymnasium's must go on meaning what it means to everybody else
        if not name.startswith(OF_PROGRAMS):
            raise ConfigError(f"{path}: was trained in {name!r}, of no program; leave out env=")
        register(env, name)
    return Agent(path, checkpoint)
