"""``fwrl inspect``: episodes of a saved policy as a page with recall maps of its memory."""

from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from agents.distributions import Categorical
from agents.encoders import Frames
from agents.inspection import (
    LONG,
    Layer,
    Played,
    influence_on_actions,
    look_into,
    play_episodes,
    remarks_on,
)
from agents.picture_encoders import Grid, Image, in_rows
from agents.pictures import LARGEST_BYTE
from agents.policy import RecurrentPolicy
from agents.saving import load_saved
from envs import EnvConfigError, env_name, make_envs
from fwrl.cli.inspect.page import frame_urls, map_picture, numbers, page
from fwrl.config import ConfigError
from fwrl.cores import name_of
from fwrl.files.plain_files import check_target, replace_plain
from fwrl.inspection.measures import MEASURES
from fwrl.inspection.recall_map import RecallMap
from fwrl.run.directory import read_run_config
from fwrl.run.evaluation import steps_of
from fwrl.run.process import compute_with
from fwrl.state import tensors_in

# Numbers of an observation that are written; the rest is cut.
LONGEST_TEXT = 64
# Numbers in all maps of an episode, at most; else single heads are left out.
MOST_SHARES = 12_000_000

GRADIENT = (
    "gradient: how much the log-probability of the chosen action would change with each input of "
    "the memory, in shares of all inputs; for small changes, through the whole policy"
)


class Wish(NamedTuple):
    """Options of ``fwrl inspect``."""

    checkpoint: str = "best"
    episodes: int = 1
    seed: int = 0
    max_steps: int = 500
    stochastic: bool = False


def inspect_run(run: Path, out: Path | None, wish: Wish) -> Path:
    """Play episodes, inspect the memory, and write the page; returns its path.

    Raises:
        ConfigError: If the directory is no run, or its environment cannot be made here.
        CheckpointError: If there is no such checkpoint, or it is damaged.
        FileError: If the page cannot be written.
    """
    config = read_run_config(run)
    folder, document, policy = load_saved(run, wish.checkpoint)
    path = out or run / "report.html"
    if not path.parent.is_dir():
        raise ConfigError(f"--out: {path} cannot be written; it should be a file in a folder")
    check_target(path)
    compute_with(config.num_threads)
    torch.manual_seed(wish.seed)
    try:
        with closing(make_envs(config.env, 1, evaluation=True, render=True)) as envs:
            played = play_episodes(policy, envs, wish.seed, wish.max_steps, not wish.stochastic)
            episodes = [_episode(policy, each) for each in islice(played, wish.episodes)]
    except EnvConfigError as error:
        raise ConfigError(str(error)) from None
    data = {
        "env": env_name(config.env),
        "core": name_of(config.core),
        "checkpoint": f"{run.resolve().name}, checkpoint {folder.name}",
        "steps": steps_of(document, folder),
        "seed": wish.seed,
        "deterministic": not wish.stochastic,
        "measures": MEASURES,
        "episodes": episodes,
    }
    replace_plain(path, page(data).encode())
    return path


def _episode(policy: RecurrentPolicy, played: Played) -> dict[str, Any]:
    layers = look_into(policy, played.inputs)
    observation = played.inputs.observation
    times = len(played.reward)
    frames = played.frames or _pictures_of(observation, policy.encoder)
    return {
        "return": numbers(sum(played.reward)),
        "ended": played.ended,
        "success": played.success,
        "frames": frame_urls(frames),
        "observations": [_text(observation, t) for t in range(times)],
        "reward": numbers(played.reward),
        "value": numbers(played.value[0]),
        "action": numbers(played.action[0]),
        **_choices(played),
        "layers": [_layer(layer, played, i) for i, layer in enumerate(layers)],
        "maps": _maps(policy, played, layers),
    }


def _choices(played: Played) -> dict[str, Any]:
    """The policy's distribution over actions at each step."""
    said = played.distribution
    if isinstance(said, Categorical):
        return {"probability": numbers(said.log_probs[0].exp())}
    mean, std = said.moments()
    return {"mean": numbers(mean[0]), "std": numbers(std[0])}


def _layer(layer: Layer, played: Played, index: int) -> dict[str, Any]:
    memories = [
        {
            "name": f"Layer {index + 1}, {memory.name}",
            "measures": {name: numbers(of[0]) for name, of in memory.measures.items()},
        }
        for memory in layer.memories
    ]
    norm = {"state_norm": numbers(played.state_norm[0, :, index, None])}
    state = {"name": f"Layer {index + 1}, the whole state", "measures": norm}
    return {"remark": layer.remark, "memories": memories or [state]}


def _maps(policy: RecurrentPolicy, played: Played, layers: list[Layer]) -> list[dict[str, Any]]:
    """The exact maps; gradients too where some are missing or the episode is short enough."""
    times = len(played.reward)
    without = {number: layer.remark for number, layer in enumerate(layers, 1) if not layer.exact}
    lacking = remarks_on(without, len(layers))
    found = [
        (f"Layer {number}, {memory.name}", "; ".join(filter(None, [layer.remark, lacking])), recall)
        for number, layer in enumerate(layers, 1)
        for memory in layer.memories
        if (recall := memory.recall) is not None
    ]
    heads = sum(recall.share.shape[2] for _, _, recall in found)
    each = heads * times**2 <= MOST_SHARES
    maps = [
        part for name, remark, recall in found for part in _of_heads(name, remark, recall, each)
    ]
    if times <= LONG or lacking:
        shares = map_picture(influence_on_actions(policy, played))
        name = "Whole policy, influence on the action"
        said = f"{lacking}. Shown instead: {GRADIENT}" if lacking else GRADIENT
        maps.append({"name": name, "remark": said, "exact": False, **shares})
    return maps


def _of_heads(name: str, remark: str, recall: RecallMap, each: bool) -> list[dict[str, Any]]:
    """The map of all heads together, then, if ``each``, of each head."""
    heads = recall.share.shape[2] - 1
    names = [*(f"{name}, head {head + 1}" for head in range(heads)), f"{name}, all heads"]
    chosen = [heads, *range(heads)] if each and heads > 1 else [heads]
    return [
        {
            "name": names[head] if heads > 1 else name,
            "remark": remark,
            "exact": True,
            "before": numbers(recall.before[0, :, head]) if recall.before.any() else None,
            **map_picture(recall.share[0, :, head]),
        }
        for head in chosen
    ]


def _pictures_of(observation: Any, encoder: nn.Module) -> list[NDArray[np.uint8]]:
    """The observations, if they are pictures; with several channels, the last of them."""
    picture = encoder.picture if isinstance(encoder, Image | Grid | Frames) else None
    if picture is None:
        return []
    rows, _ = in_rows(observation[0], picture, last=True)
    pixels = rows.float().cpu().numpy()
    low, high = picture.low, picture.high
    # a map of symbols is shown as it is
    symbols = picture.network == "grid"
    share = pixels / LARGEST_BYTE if symbols else (pixels - low) / (high - low)
    shown = (share.clip(0, 1) * LARGEST_BYTE).round().astype(np.uint8)
    if shown.shape[-1] != 3:
        shown = shown[..., -1:].repeat(3, axis=-1)
    return list(shown)


def _text(observation: Any, time: int) -> str:
    """The observation of one time step as numbers."""
    parts: list[float] = []
    for leaf in tensors_in(observation):
        parts += leaf[0, time].flatten()[: LONGEST_TEXT + 1].double().tolist()
    cut = ["…"] if len(parts) > LONGEST_TEXT else []
    return " ".join([f"{part:.4g}" for part in parts[:LONGEST_TEXT]] + cut)
