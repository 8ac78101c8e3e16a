"""Policies on disk, in checkpoints of a run or exported as one file; loading runs no code."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from gymnasium import spaces
from torch import Tensor

from agents.policy import PolicyConfig, RecurrentPolicy
from agents.spaces import one_line, read_back, space_from_json, space_to_json, without_keys
from fwrl.config import ConfigError, validate_stored
from fwrl.files.checkpoint import (
    MANIFEST,
    CheckpointError,
    check_no_link,
    check_tensors,
    describe_tensors,
    load_checkpoint,
    load_tensors,
    read_document,
    recover_checkpoint,
    recover_checkpoints,
)
from fwrl.files.json_files import parse_json, without_infinities
from fwrl.files.names import ENDING, is_exported, no_run
from fwrl.files.plain_files import MEBIBYTE, FileError, read_plain, replace_plain
from fwrl.files.tensor_files import (
    LONGEST_HEADER,
    Described,
    Header,
    from_bytes,
    read_header,
    to_bytes,
)
from fwrl.state import tensors_in

CHECKPOINTS = "checkpoints"
# How often a checkpoint is looked for that vanishes while it is read.
LOOKS = 5
# The entry of an exported file's metadata that holds its JSON document.
DOCUMENT = "fwrl"
EXPORT_FORMAT = 1
# Bytes of a policy's constants and of its memory state of one stream.
MOST_UNSAVED = 256 * MEBIBYTE


def describe_policy(policy: RecurrentPolicy) -> dict[str, Any]:
    """The configuration and spaces, from which ``build_policy`` builds the policy again."""
    return {
        "config": policy.config.model_dump(mode="json"),
        "observation_space": space_to_json(policy.observation_space),
        "action_space": space_to_json(policy.action_space),
    }


def new_policy(
    observation_space: spaces.Space[Any], action_space: spaces.Space[Any], config: PolicyConfig
) -> RecurrentPolicy:
    """A policy that is to be trained, built of the spaces as they will be read back.

    Raises:
        ConfigError: If a reader would refuse what training would save.
    """
    read: list[spaces.Space[Any]] = []
    for name, space in (("observations", observation_space), ("actions", action_space)):
        try:
            read.append(read_back(space))
        except ValueError as error:
            raise ConfigError(f"env: {name}: {error}, in {one_line(space)}") from None
    policy = RecurrentPolicy(read[0], read[1], config)
    try:
        _check_unsaved(policy)
    except ValueError as error:
        raise ConfigError(f"core: {error}") from None
    return policy


def build_policy(
    description: Any, tensors: Mapping[str, Tensor | Described], where: str
) -> RecurrentPolicy:
    """The policy that ``describe_policy`` described, with new parameters.

    It is first built on the meta device and compared with the tensors of its file, so that memory
    is allocated only if the file holds as much. The description may come from a stranger; ``where``
    opens error messages.

    Raises:
        CheckpointError: If the description is malformed, or does not fit the tensors.
    """
    try:
        seen = space_from_json(description["observation_space"])
        actions = space_from_json(description["action_space"])
        config = validate_stored(PolicyConfig, description["config"])
        with torch.device("meta"):
            shape = RecurrentPolicy(seen, actions, config)
            check_tensors(shape, tensors, where)
            _check_unsaved(shape)
        return RecurrentPolicy(seen, actions, config)
    except CheckpointError:
        raise
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{where}: it describes no policy ({error!r})") from None
    # PyTorch raises RuntimeError where sizes cannot be multiplied or memory is short
    except (ConfigError, ValueError, RuntimeError, MemoryError) as error:
        raise CheckpointError(f"{where}: its policy cannot be built: {error}") from None


def _check_unsaved(policy: RecurrentPolicy) -> None:
    """Bound the memory that no file accounts for: constants, and the state of one stream."""
    saved = policy.state_dict().keys()
    constants = [leaf for name, leaf in policy.named_buffers() if name not in saved]
    needed = sum(leaf.nbytes for leaf in [*constants, *tensors_in(policy.initial_state(1))])
    if needed > MOST_UNSAVED:
        raise ValueError(f"{needed:,} bytes beside its parameters are over {MOST_UNSAVED:,}")


def load_policy(path: Path | str, checkpoint: str = "best", device: str = "cpu") -> RecurrentPolicy:
    """A trained policy, from a run or an exported file; loading runs no code.

    Args:
        path: A run directory, one of its ``checkpoints/<step>``, or a ``.safetensors`` file that
            ``fwrl export`` wrote.
        checkpoint: ``best``, ``last``, a step, or a path; only for a run directory.
        device: The device to put it on.

    Raises:
        CheckpointError: If it does not exist, or is damaged.
    """
    path = Path(path)
    policy = _load_exported(path) if is_exported(path) else load_saved(path, checkpoint).policy
    return policy.to(torch.device(device)).eval()


class Saved(NamedTuple):
    """A checkpoint's folder, its document and its policy."""

    folder: Path
    document: dict[str, Any]
    policy: RecurrentPolicy


def load_saved(run: Path, which: str = "best") -> Saved:
    """The checkpoint of a run that ``which`` names, its policy ready to act on the CPU.

    A training that goes on meanwhile may delete it between two looks: then another is found.

    Raises:
        CheckpointError: If there is no such checkpoint, or it is damaged.
    """
    for _ in range(LOOKS - 1):
        folder = find_checkpoint(run, which)
        try:
            return _load_saved(folder)
        except CheckpointError:
            if (folder / MANIFEST).is_file():
                raise
    return _load_saved(find_checkpoint(run, which))


def _load_saved(folder: Path) -> Saved:
    document, where = read_document(folder), str(folder)
    policy = build_policy(document.get("policy", {}), describe_tensors(folder, "policy"), where)
    content = load_checkpoint(folder, only=["policy"])
    load_tensors(policy, content.tensors.get("policy", {}), str(folder / "policy.safetensors"))
    return Saved(folder, document, policy.eval())


def actor_of(policy: RecurrentPolicy) -> RecurrentPolicy:
    """A policy that acts alike and needs nothing that only the critic reads.

    It is the policy itself where its critic reads no more than the actor; otherwise it has no
    critic, and shares the parameters that it needs.
    """
    hidden = policy.config.critic.observation
    if not hidden or policy.config.without_critic:
        return policy
    config = policy.config.model_copy(update={"without_critic": True})
    with torch.random.fork_rng(devices=[]):
        seen = without_keys(policy.observation_space, hidden)
        actor = RecurrentPolicy(seen, policy.action_space, config).to(policy.device)
    names = actor.state_dict().keys()
    tensors = {name: leaf for name, leaf in policy.state_dict().items() if name in names}
    actor.load_state_dict(tensors, assign=True)
    return actor.train(policy.training)


def export_policy(path: Path, policy: RecurrentPolicy, document: Mapping[str, Any]) -> None:
    """Write a policy and a JSON document as one file, whole or not at all; replaces ``path``.

    A critic that reads more than the actor is left out.
    """
    policy = actor_of(policy)
    text = policy_document(policy, document)
    tensors = policy.state_dict()
    metadata = {DOCUMENT: text, "sha256": _digest(text, tensors)}
    replace_plain(path, to_bytes(tensors, metadata))


def policy_document(policy: RecurrentPolicy, document: Mapping[str, Any]) -> str:
    """The JSON document of an exported file: ``document`` and the policy's description."""
    said = {"format": EXPORT_FORMAT, "policy": describe_policy(policy), **document}
    return json.dumps(without_infinities(said))


def read_exported(path: Path) -> dict[str, Any]:
    """The JSON document of an exported file; its tensors are not read.

    Raises:
        CheckpointError: If it is not an exported file.
    """
    return _exported_document(_exported_header(path), path)


def _load_exported(path: Path) -> RecurrentPolicy:
    header = _exported_header(path)
    described = _exported_document(header, path).get("policy", {})
    policy = build_policy(described, header.tensors, str(path))
    size = sum(each.size for each in header.tensors.values())
    try:
        tensors, read = from_bytes(read_plain(path, size + 8 + LONGEST_HEADER, links=True), path)
    except (FileError, FileNotFoundError) as error:
        raise CheckpointError(str(error)) from None
    digest = _digest(read.metadata.get(DOCUMENT, ""), tensors)
    if read != header or read.metadata.get("sha256") != digest:
        raise CheckpointError(f"{path}: damaged, its sha256 is not the one it says")
    load_tensors(policy, tensors, str(path))
    return policy


def _exported_header(path: Path) -> Header:
    try:
        return read_header(path, links=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except FileError as error:
        raise CheckpointError(str(error)) from None


def _exported_document(header: Header, path: Path) -> dict[str, Any]:
    try:
        document = parse_json(header.metadata.get(DOCUMENT, "null").encode(), str(path))
    except (FileError, UnicodeError) as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: not a policy that `fwrl export` wrote")
    document = cast(dict[str, Any], document)
    chosen = document.get("format")
    if type(chosen) is not int or chosen != EXPORT_FORMAT:
        raise CheckpointError(
            f"{path}: exported in format {chosen!r}; this version of fwrl reads {EXPORT_FORMAT}"
        )
    return document


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of the document and all tensors, whatever their order in the file."""
    digest = hashlib.sha256(text.encode())
    for name, leaf in sorted(tensors.items()):
        digest.update(f"\n{name} {leaf.dtype} {list(leaf.shape)}\n".encode())
        numbers = leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(numbers.data)
    return digest.hexdigest()


def find_checkpoint(run: Path, which: str = "best") -> Path:
    """The checkpoint folder that ``which`` names; ``best`` has the highest evaluated return.

    Raises:
        CheckpointError: If there is no such checkpoint.
    """
    recover_checkpoint(run)
    if (run / MANIFEST).is_file():
        return run
    if which not in ("best", "last"):
        return _named_checkpoint(run, which)
    if not run.is_dir():
        raise CheckpointError(no_run(run))
    folders = list_checkpoints(run)
    if not folders:
        raise CheckpointError(f"{run}: not a run directory with a checkpoint in {CHECKPOINTS}/")
    return best_checkpoint(folders) if which == "best" else folders[-1]


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first; damaged ones too, in the place of their names.

    Nothing else in their folder is listed: files, links, and copies that say another step than
    their names.

    Raises:
        CheckpointError: If the folder is a symbolic link.
    """
    folder = run / CHECKPOINTS
    check_no_link(folder)
    recover_checkpoints(folder)
    found = [path for path in folder.glob("*") if is_checkpoint(path)]
    return sorted(found, key=lambda path: int(path.name))


def is_checkpoint(path: Path) -> bool:
    """Whether a path is what its name says, the checkpoint of a step, be it whole or damaged."""
    name = path.name
    if not (name.isascii() and name.isdigit()) or path.is_symlink() or not path.is_dir():
        return False
    try:
        counters = read_document(path).get("counters")
    except CheckpointError:
        return os.path.lexists(path / MANIFEST) or any(path.glob(f"*{ENDING}"))
    steps = cast(dict[str, Any], counters).get("steps") if isinstance(counters, dict) else None
    # only a number contradicts the name
    return type(steps) is not int or str(steps) == name


def best_checkpoint(folders: list[Path]) -> Path:
    """The checkpoint with the highest score, the later of equals; the last if none has a score.

    A checkpoint that cannot be read ranks below all others.
    """

    def score(folder: Path) -> tuple[bool, float]:
        try:
            value = read_document(folder).get("score")
        except CheckpointError:
            return False, -math.inf
        # a return may be NaN, which compares as neither lower nor higher
        if not isinstance(value, int | float) or math.isnan(value):
            return True, -math.inf
        return True, float(value)

    return max(reversed(folders), key=score)


def _named_checkpoint(run: Path, which: str) -> Path:
    for folder in (run / CHECKPOINTS / which, Path(which)):
        if folder.is_dir():
            return folder
    known = ", ".join(path.name for path in list_checkpoints(run)) or "none"
    raise CheckpointError(
        f"{run}: no checkpoint {which!r}; it should be best, last, a path or a step ({known})"
    )
