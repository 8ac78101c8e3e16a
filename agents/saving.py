"""Policies on disk: what a checkpoint says of its policy, and where a run keeps its checkpoints."""

import math
from pathlib import Path
from typing import Any

import torch

from agents.policy import PolicyConfig, RecurrentPolicy
from agents.spaces import space_from_json, space_to_json
from fwrl.checkpoint import (
    MANIFEST,
    CheckpointError,
    load_checkpoint,
    load_tensors,
    read_document,
)
from fwrl.config import ConfigError, validate

CHECKPOINTS = "checkpoints"


def describe_policy(policy: RecurrentPolicy) -> dict[str, Any]:
    """All that is needed, beside its tensors, to build the policy again."""
    return {
        "config": policy.config.model_dump(mode="json"),
        "observation_space": space_to_json(policy.observation_space),
        "action_space": space_to_json(policy.action_space),
    }


def build_policy(description: Any, where: str) -> RecurrentPolicy:
    """The policy that ``describe_policy`` described, with new parameters.

    Raises:
        CheckpointError: If the description is not one.
    """
    try:
        return RecurrentPolicy(
            space_from_json(description["observation_space"]),
            space_from_json(description["action_space"]),
            validate(PolicyConfig, description["config"]),
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{where}: it describes no policy ({error!r})") from None
    except (ConfigError, ValueError) as error:
        raise CheckpointError(f"{where}: its policy cannot be built: {error}") from None


def load_policy(path: Path | str, checkpoint: str = "best", device: str = "cpu") -> RecurrentPolicy:
    """A trained policy, from a run directory or a checkpoint folder; nothing in it is executed.

    Args:
        path: A run directory, or one of its ``checkpoints/<step>``.
        checkpoint: ``best``, ``last``, a step, or a path; only for a run directory.
        device: Where to put it.

    Raises:
        CheckpointError: If there is none, or it is damaged.
    """
    folder = find_checkpoint(Path(path), checkpoint)
    content = load_checkpoint(folder)
    policy = build_policy(content.document.get("policy", {}), str(folder))
    load_tensors(policy, content.tensors.get("policy", {}), str(folder))
    return policy.to(torch.device(device)).eval()


def find_checkpoint(run: Path, which: str = "best") -> Path:
    """The checkpoint folder that ``which`` names; ``best`` has the highest evaluated return.

    Raises:
        CheckpointError: Saying what is missing.
    """
    if (run / MANIFEST).is_file():
        return run
    if which not in ("best", "last"):
        return _named_checkpoint(run, which)
    if not run.is_dir():
        raise CheckpointError(f"{run}: no such run directory")
    folders = list_checkpoints(run)
    if not folders:
        raise CheckpointError(f"{run}: not a run directory with a checkpoint in {CHECKPOINTS}/")
    return best_checkpoint(folders) if which == "best" else folders[-1]


def list_checkpoints(run: Path) -> list[Path]:
    """All checkpoint folders of a run, oldest first."""
    folders = [path for path in (run / CHECKPOINTS).glob("*") if path.name.isdigit()]
    return sorted(folders, key=lambda path: int(path.name))


def best_checkpoint(folders: list[Path]) -> Path:
    """The one with the highest score, the later of equals; the last if none has been evaluated."""

    def score(folder: Path) -> float:
        value = read_document(folder).get("score")
        # a return may be NaN, which would pass for the highest
        if not isinstance(value, int | float) or math.isnan(value):
            return -math.inf
        return float(value)

    return max(reversed(folders), key=score)


def _named_checkpoint(run: Path, which: str) -> Path:
    for folder in (run / CHECKPOINTS / which, Path(which)):
        if folder.is_dir():
            return folder
    known = ", ".join(path.name for path in list_checkpoints(run)) or "none"
    raise CheckpointError(
        f"{run}: no checkpoint {which!r}; it should be best, last, a path or a step ({known})"
    )
