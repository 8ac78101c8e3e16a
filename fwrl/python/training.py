"""Training from a program: the same run, in the same directory, as by the command."""

import json
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import yaml
from jaxtyping import Float
from numpy import ndarray
from rich.console import Console

from envs import env_name
from fwrl.config import ConfigError, validate
from fwrl.python.agent import Agent, load
from fwrl.python.environments import MakeEnv, id_of, register
from fwrl.run.config import RunConfig
from fwrl.run.directory import default_run_directory
from fwrl.run.exit_codes import FAILED, FINISHED
from fwrl.run.iteration import OnIteration
from fwrl.run.last_resort import LastResort
from fwrl.run.launch import launch
from fwrl.run.process import keep_freed_memory
from fwrl.run.signals import stop_signals
from fwrl.run.table import read_table
from fwrl.run.yaml_files import apply_overrides, find_config, flat, parse_yaml, read_yaml

# What can be trained: a configuration, or its file, or the id or the maker of environments.
Trainable: TypeAlias = RunConfig | str | PathLike[str] | MakeEnv
Overrides: TypeAlias = Mapping[str, Any] | Sequence[str]
YAML = (".yaml", ".yml")


class Run(NamedTuple):
    """A training that has ended, or was stopped."""

    directory: Path
    """Where everything about it lies; commands take it too."""
    config: RunConfig
    """As it was asked for; ``config.yaml`` in the directory has what was trained with."""
    finished: bool
    """Whether all steps were made; else the same call goes on."""
    make_env: MakeEnv | None
    """Makes the environments, if the program does."""

    @property
    def metrics(self) -> dict[str, Float[ndarray, " iterations"]]:
        """Each column of ``metrics.csv``, by its name; NaN where there is no number."""
        return read_table(self.directory)

    def agent(self, checkpoint: str = "best") -> Agent:
        """The agent of a checkpoint: ``best`` (by evaluations), ``last``, or a step."""
        return load(self.directory, self.make_env, checkpoint)


def train(
    config: Trainable,
    overrides: Overrides = (),
    *,
    on_iteration: OnIteration | None = None,
    run_dir: str | PathLike[str] | None = None,
    fresh: bool = False,
    track: str | None = None,
) -> Run:
    """Train an agent; a run that is there goes on, bit for bit.

    Interrupting it (Ctrl-C, or the button of a notebook) saves the run and returns it. PyTorch's
    number of threads and all random generators are afterwards those of the training.

    Args:
        config: A configuration, a path that ends with ``.yaml``, the id of an environment, or a
            function that makes an environment. All but the first two need ``total_steps``.
        overrides: Keys and values, ``{"core.kind": "lstm"}``, or texts as for the command.
        on_iteration: Called after each iteration; where it returns False, the training stops.
        run_dir: Where the run goes; ``runs/<config>`` and the overrides unless given.
        fresh: Start anew; what is there is set aside.
        track: ``wandb`` mirrors there what TensorBoard gets.

    Raises:
        ConfigError: For a mistake in the configuration or its environment, in one line.
        RuntimeError: If the training could not go on; the reason was printed.
    """
    keep_freed_memory()
    changes = _texts(overrides)
    name, values, make_env = _values(config)
    apply_overrides(values, changes)
    run_config = validate(RunConfig, values)
    if make_env is not None:
        register(make_env, id_of(make_env))
    directory = Path(run_dir) if run_dir else default_run_directory(Path(name), changes)
    with _signals() as received:
        rest = (received, LastResort(), Console(), on_iteration, track)
        code = launch(run_config, directory, fresh, *rest)
    if code == FAILED:
        raise RuntimeError(
            f"{directory}: the training could not go on; the reason is printed above"
        )
    return Run(directory, run_config, code == FINISHED, make_env)


def _values(config: Trainable) -> tuple[str, dict[str, Any], MakeEnv | None]:
    """The name of the run, the values of its configuration, and the maker of its environments."""
    if isinstance(config, RunConfig):
        return _as_name(env_name(config.env)), config.model_dump(mode="json"), None
    if not isinstance(config, str | PathLike):
        env_id = id_of(config)
        return _as_name(env_id), {"env": {"id": env_id}}, config
    if Path(config).suffix in YAML:
        path = find_config(Path(config))
        return str(path), read_yaml(path), None
    if isinstance(config, str):
        return _as_name(config), {"env": {"id": config}}, None
    raise ConfigError(f"{config}: not a configuration; its name should end with .yaml")


def _as_name(env_id: str) -> str:
    """An environment's id as the name of a configuration file."""
    return f"{env_id.rpartition('/')[2]}.yaml"


def _texts(overrides: Overrides) -> list[str]:
    """Overrides as the command takes them."""
    if isinstance(overrides, str):
        raise ConfigError(f"overrides is {overrides!r}; it should be a list or a dictionary")
    if not isinstance(overrides, Mapping):
        return list(overrides)
    return [f"{key}={_text(key, value)}" for key, value in flat(overrides).items()]


def _text(key: str, value: Any) -> str:
    """A value as a command writes it: a text without quotes where it is read as that text."""
    if isinstance(value, str) and _read(value) == value:
        return value
    try:
        return json.dumps(value)
    except TypeError:
        kind = type(value).__name__
        raise ConfigError(f"{key} is a {kind}; it should be a number, text, list or null") from None


def _read(text: str) -> object:
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        return None


@contextmanager
def _signals() -> Generator[list[int]]:
    """The signals that come meanwhile; none in a thread, where Python delivers none."""
    if threading.current_thread() is not threading.main_thread():
        yield []
        return
    with stop_signals() as received:
        yield received
