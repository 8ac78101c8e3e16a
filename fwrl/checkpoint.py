"""Checkpoints: a folder of tensors (safetensors) and one JSON manifest, and nothing that runs.

The manifest holds the sha256 of every file and of its own document, and is written last; the folder
appears under its name by one rename. A checkpoint is therefore whole or absent, and a damaged one
is noticed.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.optim import Optimizer

FORMAT = 1
MANIFEST = "manifest.json"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or does not fit. The message is one line."""


class Checkpoint(NamedTuple):
    """What a checkpoint folder holds."""

    tensors: dict[str, dict[str, Tensor]]
    document: dict[str, Any]


def save_checkpoint(
    folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], document: Mapping[str, Any]
) -> None:
    """Write ``folder`` whole, or not at all.

    Args:
        folder: Replaced if it exists.
        tensors: By file (``policy`` becomes ``policy.safetensors``), then by name.
        document: Anything JSON can say.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        hashes: dict[str, str] = {}
        for name, group in tensors.items():
            data = save({key: leaf.detach().cpu().contiguous() for key, leaf in group.items()})
            hashes[f"{name}.safetensors"] = hashlib.sha256(data).hexdigest()
            _write(temporary / f"{name}.safetensors", data)
        manifest = {
            "format": FORMAT,
            "files": hashes,
            "document": document,
            "document_sha256": _document_hash(document),
        }
        _write(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
        _sync(temporary)
        _replace(folder, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync(folder.parent)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read and verify a checkpoint; no code in it can run.

    Raises:
        CheckpointError: If a file is missing, damaged, or of another format.
    """
    document, files = _read_manifest(folder)
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, expected in files.items():
        path = folder / Path(name).name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointError(
                f"{path}: {error.strerror}; the checkpoint is not whole"
            ) from None
        if hashlib.sha256(data).hexdigest() != expected:
            raise CheckpointError(f"{path}: damaged, its sha256 is not the manifest's")
        try:
            tensors[path.stem] = load(data)
        except SafetensorError as error:
            raise CheckpointError(f"{path}: not a safetensors file ({error})") from None
    return Checkpoint(tensors, document)


def pack(checkpoint: Checkpoint) -> bytes:
    """A checkpoint that travels to another process; ``unpack`` makes it again."""
    document = json.dumps(checkpoint.document).encode()
    named = {"document": torch.frombuffer(bytearray(document), dtype=torch.uint8)}
    for file, group in checkpoint.tensors.items():
        named |= {f"{file}/{name}": leaf for name, leaf in group.items()}
    return save(named)


def unpack(data: bytes) -> Checkpoint:
    """What ``pack`` was given."""
    named = load(data)
    document = json.loads(named.pop("document").numpy().tobytes())
    tensors: dict[str, dict[str, Tensor]] = {}
    for key, leaf in named.items():
        file, _, name = key.partition("/")
        tensors.setdefault(file, {})[name] = leaf
    return Checkpoint(tensors, document)


def read_document(folder: Path) -> dict[str, Any]:
    """The JSON part alone: cheap, and enough to know what the checkpoint is."""
    return _read_manifest(folder)[0]


def load_tensors(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy saved parameters and buffers into ``module``, which must have exactly these.

    Raises:
        CheckpointError: Naming the first tensor that is missing, unknown or of another shape.
    """
    own = module.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        if name not in tensors:
            raise CheckpointError(f"{where}: {name} is missing; it was saved by another model")
        if name not in own:
            raise CheckpointError(f"{where}: {name} is unknown here; it was saved by another model")
        if own[name].shape != tensors[name].shape:
            raise CheckpointError(
                f"{where}: {name} has shape {list(tensors[name].shape)}, "
                f"this policy needs {list(own[name].shape)}"
            )
    module.load_state_dict(dict(tensors))


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers of its parameters, by their number and the name of it."""
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }


def load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser of the same parameters what ``optimizer_tensors`` returned."""
    entries: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        entries.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def _read_manifest(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: not a checkpoint, it has no {MANIFEST}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{path}: not a manifest")
    manifest = cast(dict[str, Any], manifest)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: format {manifest.get('format')!r}; this version of fwrl reads {FORMAT}"
        )
    files, document = manifest.get("files"), manifest.get("document")
    if not isinstance(files, dict) or not isinstance(document, dict):
        raise CheckpointError(f"{path}: not a manifest")
    document = cast(dict[str, Any], document)
    expected = _document_hash(document)
    if manifest.get("document_sha256") != expected:
        raise CheckpointError(f"{path}: damaged, its document is not what was saved")
    return document, cast(dict[str, str], files)


def _document_hash(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()


def _replace(folder: Path, new: Path) -> None:
    """Give ``new`` the name of ``folder``, which keeps it if that fails."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
