"""Evaluation of a run from its directory alone, or of an exported policy."""

import json
from collections.abc import Sequence
from contextlib import closing
from itertools import chain
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from agents.evaluation import LONGEST_EPISODE, evaluate, summarise
from agents.policy import RecurrentPolicy
from agents.rollout import misfit
from agents.saving import actor_of, load_policy, load_saved, read_exported
from envs import EnvConfigError, VectorEnv, env_name, make_envs, most_steps
from fwrl.config import ConfigError, validate, validate_stored
from fwrl.cores import name_of
from fwrl.files.checkpoint import CheckpointError
from fwrl.files.json_files import LARGEST_COUNT, is_count, without_infinities
from fwrl.files.names import ENDING, is_exported
from fwrl.files.plain_files import make_folder, replace_plain
from fwrl.run.config import RunConfig
from fwrl.run.directory import named_directory, read_run_config
from fwrl.run.process import choose_device, compute_with
from fwrl.run.progress import evaluation_status
from fwrl.run.video.episode_frames import moments, pictures_of, with_recall
from fwrl.run.video.video import LONGEST, ending, write_video
from fwrl.run.yaml_files import apply_overrides


class Request(NamedTuple):
    """The options of an evaluation."""

    episodes: int = 100
    checkpoint: str = "best"
    stochastic: bool = False
    seed: int = 0
    video: Path | None = None
    """A folder for a video of one episode."""
    recall: bool = True
    """Whether the video has a recall strip."""
    overrides: Sequence[str] = ()
    """``env.KEY=VALUE`` texts: another environment than the policy was trained in."""


class Trained(NamedTuple):
    """A policy on disk, and the run that it comes from."""

    path: Path
    config: RunConfig
    steps: int
    policy: RecurrentPolicy


def evaluate_run(run: Path, request: Request) -> dict[str, Any]:
    """Play whole episodes, write their results to ``evaluations/`` of the run, and return them.

    Results of an exported file, which has no run directory, are only returned.

    Raises:
        ConfigError: If the directory is no run or cannot be written, or its environment cannot be
            made here or does not fit the policy.
        CheckpointError: If there is no such checkpoint, or it is damaged.
        EnvFailure: If the environment cannot be reset.
        EvaluationError: If the environment fails again and again, or an episode does not end.
    """
    trained = _find(run, request.checkpoint)
    config = elsewhere(trained.config, request.overrides)
    folder, policy = trained.path, trained.policy.to(choose_device(config.device))
    compute_with(config.num_threads)
    count = min(config.evaluation.num_envs, request.episodes)
    # an evaluation can take long: whatever can fail comes before it
    results = None if is_exported(run) else _results_folder(run)
    try:
        with closing(make_envs(config.env, count, evaluation=True)) as envs:
            check_spaces(policy, envs, request.overrides)
            video = _write_video(trained._replace(config=config), request)
            torch.manual_seed(request.seed)
            with evaluation_status(request.episodes) as watch:
                played = evaluate(
                    policy,
                    envs,
                    request.episodes,
                    request.seed,
                    not request.stochastic,
                    max(LONGEST_EPISODE, most_steps(config.env)),
                    watch,
                )
    except EnvConfigError as error:
        raise ConfigError(str(error)) from None
    summary = summarise(played)
    result = {
        "env": env_name(config.env),
        "core": name_of(config.core),
        "checkpoint": str(folder),
        "steps": trained.steps,
        "episodes": request.episodes,
        "deterministic": not request.stochastic,
        "seed": request.seed,
        "faults": len(played.faults),
        "overrides": list(request.overrides),
        **summary._asdict(),
        # a single episode has none
        "return_ci95": None if isnan(summary.return_ci95[0]) else list(summary.return_ci95),
        **video,
    }
    if results is not None:
        _write(results, folder.name, result)
    return result


def film_run(run: Path, request: Request) -> Path:
    """A video of one episode, in the folder that ``request.video`` names; returns its file.

    Raises:
        ConfigError: If the environment cannot be made here, or draws no pictures.
        CheckpointError: If there is no such checkpoint, or it is damaged.
    """
    trained = _find(run, request.checkpoint)
    compute_with(trained.config.num_threads)
    return Path(_write_video(trained, request)["video"])


def _find(run: Path, checkpoint: str) -> Trained:
    """The policy of a checkpoint of a run, or of an exported file, to act."""
    config = stored_config(run)
    if is_exported(run):
        return Trained(run, config, steps_of(read_exported(run), run), load_policy(run))
    folder, document, policy = load_saved(run, checkpoint)
    return Trained(folder, config, steps_of(document, folder), actor_of(policy))


def stored_config(run: Path) -> RunConfig:
    """The configuration of a run, or of that which an exported file comes from.

    Raises:
        ConfigError: If the directory is no run.
        CheckpointError: If it is not an exported file, or describes no run.
    """
    if not is_exported(run):
        return read_run_config(run)
    try:
        return validate_stored(RunConfig, read_exported(run).get("run"), str(run))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def elsewhere(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The run's configuration with another environment.

    Raises:
        ConfigError: If an override is wrong, or is not of the environment.
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
    """Check that environments have the observation and action spaces of a policy.

    Raises:
        ConfigError: If they have not; the message opens with the overrides.
    """
    other = misfit(policy, envs.observation_space, envs.action_space)
    if other is not None:
        raise ConfigError(f"{' '.join(overrides) or 'the environment'}: has {other}")


def report(result: dict[str, Any], as_json: bool) -> str:
    """The result of an evaluation as JSON, or as a few lines for people."""
    if as_json:
        return json.dumps(without_infinities(result))
    ends = result["return_ci95"]
    interval = f"  95 % interval of the IQM [{ends[0]:.4g}, {ends[1]:.4g}]" if ends else ""
    lines = [
        f"{result['env']}, {result['core']} memory, after {result['steps']:,} steps "
        f"({result['checkpoint']})",
        f"return  mean {result['return_mean']:.4g}  std {result['return_std']:.4g}  "
        f"IQM {result['return_iqm']:.4g}{interval}",
        f"over {result['episodes']} episodes of {result['length_mean']:.4g} steps on average",
    ]
    if result["success_rate"] is not None:
        lines.append(f"success {result['success_rate']:.1%}")
    if result["faults"]:
        lines.append(f"faults  {result['faults']}; these episodes count for nothing")
    if result["checkpoint"].endswith(ENDING):
        lines.append("not written anywhere: an exported file has no run directory")
    if "video" in result:
        lines.append(f"video   {result['video']}")
    if "recall_strip" in result:
        lines.append(f"recall  {result['recall_strip']}")
    return "\n".join(lines)


def _write_video(trained: Trained, request: Request) -> dict[str, str]:
    """Write a video of one episode; returns its file and a description of its recall strip."""
    if request.video is None:
        return {}
    torch.manual_seed(request.seed)
    config, policy = trained.config, trained.policy
    stem = make_folder(request.video) / f"episode_{trained.path.name}_seed{request.seed}"
    with closing(make_envs(config.env, 1, evaluation=True, render=True)) as envs:
        longest = LONGEST[ending()]
        episode = moments(envs, policy, request.seed, longest, not request.stochastic)
        said: dict[str, str] = {}
        if request.recall:
            frames, said["recall_strip"] = with_recall(policy, episode)
        else:
            frames = pictures_of(episode)
        first = next(frames, None)
        if first is None:
            raise ConfigError(f"--video: {env_name(config.env)} draws no pictures of this episode")
        return {"video": str(write_video(stem, chain([first], frames), envs.render_fps)), **said}


def _results_folder(run: Path) -> Path:
    path = run / "evaluations"
    # a stranger's run may have a link that leads anywhere
    if path.is_symlink():
        raise ConfigError(f"{path}: is a symbolic link; it should be a folder of the run")
    return make_folder(path)


def _write(folder: Path, step: str, result: dict[str, Any]) -> None:
    how = "best" if result["deterministic"] else "sampled"
    parts = [f"{step}_seed{result['seed']}_{how}", *sorted(result["overrides"])]
    name = f"{named_directory(parts).name}.json"
    text = json.dumps(without_infinities(result), indent=1)
    replace_plain(folder / name, f"{text}\n".encode())


def steps_of(document: dict[str, object], where: Path) -> int:
    """The environment steps of the training that wrote a checkpoint or an exported file.

    Raises:
        CheckpointError: If the document does not say.
    """
    counters = document.get("counters", document)
    steps = counters.get("steps") if isinstance(counters, dict) else None
    if not is_count(steps):
        raise CheckpointError(
            f"{where}: it does not say after how many steps it was written, "
            f"but {steps!r}; it should be a whole number from 0 to {LARGEST_COUNT:,}"
        )
    return cast(int, steps)
