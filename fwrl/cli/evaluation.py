"""Evaluation of a finished or running run, from its directory alone."""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from agents.evaluation import evaluate, play, summarise
from agents.policy import RecurrentPolicy
from agents.rollout import EpisodeCounter, Episodes
from agents.saving import find_checkpoint, is_exported, load_policy, read_exported
from envs import AtariConfig, EnvConfigError, VectorEnv, make_envs
from fwrl.checkpoint import CheckpointError, read_document
from fwrl.cli.export import steps_of
from fwrl.cli.run_config import RunConfig
from fwrl.cli.run_directory import named_directory, read_run_config
from fwrl.cli.video import write_video
from fwrl.cli.yaml_files import apply_overrides
from fwrl.config import ConfigError, validate
from fwrl.json_files import without_infinities
from fwrl.plain_files import replace_plain
from fwrl.tensor_files import ENDING
from fwrl.training import choose_device

# An episode longer than this many steps is cut in a video; the evaluation counts it whole.
LONGEST_VIDEO = 10_000


class Trained(NamedTuple):
    """A policy that can be evaluated: where it is, and the run that it comes from."""

    path: Path
    config: RunConfig
    steps: int


def evaluate_run(
    run: Path,
    episodes: int,
    checkpoint: str,
    stochastic: bool,
    seed: int,
    video: Path | None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Play ``episodes`` episodes and write what they gave to ``evaluations/`` of the run.

    Of an exported file it is only returned: there is no run directory. With ``env.KEY=VALUE``
    overrides the policy plays in another environment than it was trained in.

    Raises:
        ConfigError: If the directory is no run, or its environment cannot be made here, or is one
            that the policy cannot read or act in.
        CheckpointError: If there is no such checkpoint, or it is damaged.
    """
    trained = _find(run, checkpoint)
    config, folder = elsewhere(trained.config, overrides), trained.path
    policy = load_policy(folder, device=choose_device(config.device).type)
    torch.set_num_threads(config.num_threads)
    try:
        envs = make_envs(config.env, min(config.evaluation.num_envs, episodes), evaluation=True)
        check_spaces(policy, envs, overrides)
        # first, because it can fail and an evaluation can take long
        film = None if video is None else _film(config, policy, video, folder, seed, stochastic)
        torch.manual_seed(seed)
        summary = summarise(evaluate(policy, envs, episodes, seed, not stochastic))
        envs.close()
    except EnvConfigError as error:
        raise ConfigError(str(error)) from None
    result = {
        "env": env_name(config),
        "core": config.core.kind,
        "checkpoint": str(folder),
        "steps": trained.steps,
        "episodes": episodes,
        "deterministic": not stochastic,
        "seed": seed,
        "overrides": list(overrides),
        **summary._asdict(),
        "return_ci95": list(summary.return_ci95),
    }
    if film is not None:
        result["video"] = str(film)
    if not is_exported(run):
        _write(run / "evaluations", folder.name, result)
    return result


def _find(run: Path, checkpoint: str) -> Trained:
    """What there is to evaluate, in a run directory or in a file that was exported."""
    if not is_exported(run):
        config, folder = read_run_config(run), find_checkpoint(run, checkpoint)
        return Trained(folder, config, steps_of(read_document(folder), folder))
    document = read_exported(run)
    try:
        config = validate(RunConfig, document.get("run"), str(run))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    return Trained(run, config, steps_of(document, run))


def elsewhere(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The run's configuration with another environment.

    Raises:
        ConfigError: If the overrides say something else, or nothing that can be.
    """
    wrong = [text for text in overrides if not text.startswith("env.")]
    if wrong:
        raise ConfigError(
            f"{wrong[0]!r}: an evaluation takes the policy as it was trained; "
            "only env.KEY=VALUE can be said"
        )
    if not overrides:
        return config
    values = config.model_dump(mode="json")
    apply_overrides(values, overrides)
    return validate(RunConfig, values)


def check_spaces(policy: RecurrentPolicy, envs: VectorEnv, overrides: Sequence[str]) -> None:
    """Nothing, if the policy can read and act in the environments, which are closed otherwise.

    Raises:
        ConfigError: If it cannot; the message opens with the overrides.
    """
    pairs = (
        ("observations", policy.observation_space, envs.observation_space),
        ("actions", policy.action_space, envs.action_space),
    )
    for name, trained, there in pairs:
        if trained != there:
            envs.close()
            raise ConfigError(
                f"{' '.join(overrides) or 'the environment'}: has {name} {there}; "
                f"the policy was trained with {trained}"
            )


def env_name(config: RunConfig) -> str:
    """The environment's id, or the game's name."""
    return config.env.game if isinstance(config.env, AtariConfig) else config.env.id


def report(result: dict[str, Any], as_json: bool) -> str:
    """The result as JSON, or as a few lines for people."""
    if as_json:
        return json.dumps(without_infinities(result))
    low, high = result["return_ci95"]
    lines = [
        f"{result['env']}, {result['core']} memory, after {result['steps']:,} steps "
        f"({result['checkpoint']})",
        f"return  mean {result['return_mean']:.4g}  std {result['return_std']:.4g}  "
        f"IQM {result['return_iqm']:.4g}  95 % interval [{low:.4g}, {high:.4g}]",
        f"over {result['episodes']} episodes of {result['length_mean']:.4g} steps on average",
    ]
    if result["success_rate"] is not None:
        lines.append(f"success {result['success_rate']:.1%}")
    if result["checkpoint"].endswith(ENDING):
        lines.append("not written anywhere: an exported file has no run directory")
    if "video" in result:
        lines.append(f"video   {result['video']}")
    return "\n".join(lines)


def _film(
    config: RunConfig,
    policy: RecurrentPolicy,
    video: Path,
    folder: Path,
    seed: int,
    stochastic: bool,
) -> Path:
    """One episode as a video; returns the file."""
    torch.manual_seed(seed)
    envs = make_envs(config.env, 1, evaluation=True, render=True)
    frames = pictures_of(envs, policy, seed, LONGEST_VIDEO, not stochastic)
    envs.close()
    if not frames:
        raise ConfigError(f"--video: {env_name(config)} draws no pictures of this episode")
    return write_video(video / f"episode_{folder.name}_seed{seed}", frames, envs.render_fps)


def pictures_of(
    envs: VectorEnv, policy: RecurrentPolicy, seed: int, longest: int, deterministic: bool
) -> list[NDArray[np.uint8]]:
    """What slot 0 looks like after each step of an episode, but for the last one.

    None if it draws no pictures, or the episode was over after one step.
    """
    frames: list[NDArray[np.uint8]] = []
    counter, ended = EpisodeCounter(1), Episodes.none()
    for step in islice(play(policy, envs, seed, deterministic), longest):
        # where an episode ends the next one has begun: its picture does not belong here
        if counter.count(step, ended).any() or (frame := envs.render()) is None:
            break
        frames.append(frame)
    return frames


def _write(folder: Path, step: str, result: dict[str, Any]) -> None:
    # a run may be a stranger's, and the link lead anywhere
    if folder.is_symlink():
        raise ConfigError(f"{folder}: is a symbolic link; it should be a folder of the run")
    folder.mkdir(exist_ok=True)
    how = "best" if result["deterministic"] else "sampled"
    parts = [f"{step}_seed{result['seed']}_{how}", *sorted(result["overrides"])]
    name = f"{named_directory(parts).name}.json"
    text = json.dumps(without_infinities(result), indent=1)
    replace_plain(folder / name, f"{text}\n".encode())
