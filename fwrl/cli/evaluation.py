"""Evaluation of a finished or running run, from its directory alone."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.evaluation import evaluate, play, summarise
from agents.policy import RecurrentPolicy
from agents.rollout import EpisodeCounter, Episodes
from agents.saving import find_checkpoint, load_policy
from envs import AtariConfig, EnvConfigError, make_envs
from fwrl.checkpoint import read_document
from fwrl.cli.run_config import RunConfig
from fwrl.cli.run_directory import read_run_config
from fwrl.cli.video import write_video
from fwrl.config import ConfigError
from fwrl.training import choose_device

# An episode longer than this many steps is cut in a video; the evaluation counts it whole.
LONGEST_VIDEO = 10_000


def evaluate_run(
    run: Path, episodes: int, checkpoint: str, stochastic: bool, seed: int, video: Path | None
) -> dict[str, Any]:
    """Play ``episodes`` episodes and write what they gave to ``evaluations/``.

    Raises:
        ConfigError: If the directory is no run, or its environment cannot be made here.
        CheckpointError: If there is no such checkpoint, or it is damaged.
    """
    config = read_run_config(run)
    folder = find_checkpoint(run, checkpoint)
    policy = load_policy(folder, device=choose_device(config.device).type)
    torch.set_num_threads(config.num_threads)
    try:
        # first, because it can fail and an evaluation can take long
        film = None if video is None else _film(config, policy, video, folder, seed, stochastic)
        envs = make_envs(config.env, min(config.evaluation.num_envs, episodes), evaluation=True)
        torch.manual_seed(seed)
        summary = summarise(evaluate(policy, envs, episodes, seed, not stochastic))
        envs.close()
    except EnvConfigError as error:
        raise ConfigError(str(error)) from None
    result = {
        "env": env_name(config),
        "core": config.core.kind,
        "checkpoint": str(folder),
        "steps": read_document(folder)["counters"]["steps"],
        "episodes": episodes,
        "deterministic": not stochastic,
        "seed": seed,
        **summary._asdict(),
        "return_ci95": list(summary.return_ci95),
    }
    if film is not None:
        result["video"] = str(film)
    _write(run / "evaluations", folder.name, result)
    return result


def env_name(config: RunConfig) -> str:
    """The environment's id, or the game's name."""
    return config.env.game if isinstance(config.env, AtariConfig) else config.env.id


def report(result: dict[str, Any], as_json: bool) -> str:
    """The result as JSON, or as a few lines for people."""
    if as_json:
        return json.dumps(result)
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
    frames: list[NDArray[np.uint8]] = []
    counter, ended = EpisodeCounter(1), Episodes.none()
    for step in islice(play(policy, envs, seed, not stochastic), LONGEST_VIDEO):
        if counter.count(step, ended).any():
            break
        # where an episode ends the next one has begun: its picture does not belong here
        frame = envs.render()
        if frame is None:
            raise ConfigError(f"--video: {env_name(config)} draws no pictures")
        frames.append(frame)
    envs.close()
    if not frames:
        raise ConfigError("--video: the episode was over after one step")
    return write_video(video / f"episode_{folder.name}_seed{seed}", frames, envs.render_fps)


def _write(folder: Path, step: str, result: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    name = f"{step}_seed{result['seed']}_{'best' if result['deterministic'] else 'sampled'}.json"
    (folder / name).write_text(json.dumps(result, indent=1) + "\n")
