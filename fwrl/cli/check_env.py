"""``fwrl check-env``: check an environment against the contract, and print a table or JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from envs import AnyEnvConfig, EnvConfig, EnvConfigError, env_name, env_names
from envs.atari import atari_games
from envs.check.conformance import Report, check
from envs.config import nearest
from envs.gymnasium_env import lacking, register
from fwrl.config import Config, ConfigError, validate
from fwrl.files.json_files import without_infinities
from fwrl.run.progress import say
from fwrl.run.yaml_files import apply_overrides, find_config, read_yaml

PREFIX = "env."
STYLES = {"ok": "green", "note": "yellow", "broken": "bold red"}
BREAKS = 1


class _Environments(Config):
    """The part of a run's configuration that is checked."""

    env: EnvConfig
    """The environments."""


def find_env(name: str, overrides: Sequence[str]) -> AnyEnvConfig:
    """The configuration of a Gymnasium id, an Atari game, or a YAML file with a part ``env``.

    ``overrides`` are keys of that part, with or without ``env.`` before them.

    Raises:
        ConfigError: If no environment has this name, or a key is wrong.
    """
    values: dict[str, Any] = {"env": _named(name)}
    prefixed = [text if text.startswith(PREFIX) else f"{PREFIX}{text}" for text in overrides]
    apply_overrides(values, prefixed)
    return validate(_Environments, values).env


def _named(name: str) -> Any:
    if Path(name).suffix in {".yaml", ".yml"}:
        values = read_yaml(find_config(Path(name)))
        if "env" not in values:
            raise ConfigError(f"{name}: has no part env")
        return values["env"]
    import gymnasium

    try:
        register(name)
    except EnvConfigError as error:
        raise ConfigError(str(error)) from None
    if name in gymnasium.registry or ":" in name or lacking(name):
        return {"kind": "gymnasium", "id": name}
    if name in atari_games():
        return {"kind": "atari", "game": name}
    known = [each for names in env_names().values() for each in names]
    raise ConfigError(f"no environment {name!r}; {nearest(name, known)}")


def check_env(config: AnyEnvConfig, seed: int, episodes: int, steps: int) -> Report:
    """The report on these environments.

    Raises:
        ConfigError: If they cannot be built as configured.
    """
    try:
        return check(config, seed, episodes, steps)
    except EnvConfigError as error:
        raise ConfigError(str(error)) from None


def exit_code(report: Report) -> int:
    """0 if the contract is kept, also by environments that cannot be continued exactly."""
    return 0 if report.faithful else BREAKS


def as_json(config: AnyEnvConfig, report: Report) -> str:
    """The report as one JSON object."""
    seen, costs = report.seen, report.costs
    result = {
        "env": env_name(config),
        "faithful": report.faithful,
        "exact": report.exact,
        "seen": None if seen is None else seen._asdict(),
        "costs": None if costs is None else costs._asdict(),
        "replay_seconds": report.replay_seconds,
        "workers_pay": report.workers_pay,
        "read_as": _read_as(report),
        "findings": [finding._asdict() for finding in report.findings],
    }
    return json.dumps(without_infinities(result))


def show(config: AnyEnvConfig, report: Report, console: Console) -> None:
    """Print the report as a table, or in plain lines without a terminal."""
    rows = [(f.name, f.verdict, f.what) for f in report.findings]
    if console.is_terminal:
        table = Table(title=Text(env_name(config)), title_justify="left", show_header=False)
        for name, verdict, what in [*rows, *((n, "", w) for n, w in _costs(report))]:
            table.add_row(name, Text(verdict, style=STYLES.get(verdict, "")), Text(what))
        console.print(table)
    else:
        say(console, env_name(config))
        for name, verdict, what in rows:
            say(console, f"  {name:<14}{verdict:<8}{what}")
        for name, what in _costs(report):
            say(console, f"  {name:<22}{what}")
    for finding in report.findings:
        if finding.advice:
            say(console, f"{finding.name}: {finding.advice}")
    say(console, f"{env_name(config)}: {_verdict(report)}")


def _verdict(report: Report) -> str:
    faithful = "keeps the contract" if report.faithful else "BREAKS the contract"
    exact = {True: "continues exactly", False: "does not continue exactly", None: ""}[report.exact]
    return ", ".join(filter(None, [faithful, exact]))


def _costs(report: Report) -> list[tuple[str, str]]:
    seen, costs = report.seen, report.costs
    rows: list[tuple[str, str]] = []
    read_as = _read_as(report)
    if read_as is not None:
        rows.append(("reading", read_as))
    if seen is not None:
        mean = "" if seen.mean_length is None else f", {seen.mean_length:.4g} steps on average"
        rows.append(("episodes", f"{seen.episodes}{mean}, at most {seen.longest}"))
    if costs is not None:
        rows += [
            ("speed", f"{costs.steps_per_second:,.0f} steps/s with {costs.num_envs} environments"),
            ("step", _milliseconds(costs.step_seconds)),
            ("reset", _milliseconds(costs.reset_seconds)),
            ("build", _milliseconds(costs.build_seconds)),
            ("observation", f"{costs.observation_bytes:,} bytes"),
        ]
    if report.replay_seconds is not None:
        rows.append(("replay", f"{report.replay_seconds:.3g} s for the longest episode seen"))
        pays = {True: "would pay", False: "would not pay", None: "may pay, measure"}
        rows.append(("workers", pays[report.workers_pay]))
    return rows


def _read_as(report: Report) -> str | None:
    """How the default encoder reads the observations."""
    if report.observation_space is None:
        return None
    import torch

    from agents.encoders import EncoderConfig, make_encoder, reading
    from agents.spaces import split_mask

    try:
        with torch.device("meta"):
            return reading(make_encoder(split_mask(report.observation_space)[0], EncoderConfig()))
    except ConfigError as error:
        return str(error)


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms per environment"
