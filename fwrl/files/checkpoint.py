"""Checkpoints: folders with files of tensors (safetensors) and a JSON manifest, and no code.

The manifest holds the size and sha256 of every file and the sha256 of its own document. It is
written last, and one rename gives the folder its name: a checkpoint is whole or absent, and damage
is noticed. Even where a stranger made it, reading takes memory in proportion to the files, and the
only exception is ``CheckpointError``.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors.torch import load
from torch import Tensor
from torch.optim import Optimizer

from fwrl.config import OneLineError
from fwrl.files.json_files import read_json, without_infinities
from fwrl.files.names import ENDING
from fwrl.files.plain_files import (
    MEBIBYTE,
    FileError,
    open_plain,
    read_exactly,
    sync_folder,
    write_plain,
)
from fwrl.files.tensor_files import Described, first_undefined, from_bytes, read_header, to_bytes

FORMAT = 2
MANIFEST = "manifest.json"
LARGEST_MANIFEST = 16 * MEBIBYTE
MOST_FILES = 100
# Such names mean the same on every system and never lead out of the folder.
FILE_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,99}\.safetensors")
SHA256 = re.compile(r"[0-9a-f]{64}")
# Attempts to move the old folder aside; a reader may recover it in between.
ATTEMPTS = 3


class CheckpointError(OneLineError):
    """A checkpoint that is damaged, or is not of this policy. The message is one line."""


class Checkpoint(NamedTuple):
    """The content of a checkpoint: tensors by file and name, and a JSON document."""

    tensors: dict[str, dict[str, Tensor]]
    document: dict[str, Any]


class Entry(NamedTuple):
    """A file in a manifest."""

    sha256: str
    size: int | None
    """Bytes; None in a manifest of format 1."""


class Manifest(NamedTuple):
    """The files of a checkpoint, and its document."""

    files: dict[str, Entry]
    document: dict[str, Any]


def save_checkpoint(
    folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], document: Mapping[str, Any]
) -> None:
    """Write a checkpoint whole, or not at all; an older one in ``folder`` is replaced.

    Tensors are given by file (``policy`` becomes ``policy.safetensors``), then by name. Infinite
    numbers and NaN in the document become null.
    """
    check_no_link(folder.parent)
    folder.parent.mkdir(parents=True, exist_ok=True)
    recover_checkpoint(folder)
    temporary = _temporary(folder)
    _remove(temporary)
    temporary.mkdir()
    try:
        files: dict[str, dict[str, Any]] = {}
        for name, group in tensors.items():
            file = f"{name}{ENDING}"
            assert FILE_NAME.fullmatch(file), f"{file} could not be read again"
            data = to_bytes(group)
            files[file] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            write_plain(temporary / file, data)
        document = without_infinities(document)
        manifest = {
            "format": FORMAT,
            "files": files,
            "document": document,
            "document_sha256": _document_hash(document),
        }
        write_plain(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
        sync_folder(temporary)
        _replace(folder, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(folder.parent)


def load_checkpoint(folder: Path, only: Collection[str] | None = None) -> Checkpoint:
    """Read and verify a checkpoint, or ``only`` some of its files, such as ``policy``.

    Raises:
        CheckpointError: If a file is missing, damaged, or of another format.
    """
    manifest = _read_manifest(folder)
    tensors: dict[str, dict[str, Tensor]] = {}
    for file, entry in manifest.files.items():
        name, path = file.removesuffix(ENDING), folder / file
        if only is not None and name not in only:
            continue
        with _one_kind_of_error(path), open_plain(path) as (opened, size):
            _check_size(path, size, entry)
            data = read_exactly(opened, path, size)
            if hashlib.sha256(data).hexdigest() != entry.sha256:
                raise _damaged(path)
            tensors[name] = from_bytes(data, path)[0]
    return Checkpoint(tensors, manifest.document)


def verify_checkpoint(folder: Path) -> None:
    """Read a checkpoint back, to be sure that it is whole before older ones are deleted.

    Raises:
        CheckpointError: If a file is missing or damaged.
    """
    for file, entry in _read_manifest(folder).files.items():
        path = folder / file
        with _one_kind_of_error(path), open_plain(path) as (opened, size):
            _check_size(path, size, entry)
            if hashlib.file_digest(opened, "sha256").hexdigest() != entry.sha256:
                raise _damaged(path)


def read_document(folder: Path) -> dict[str, Any]:
    """The JSON document of a checkpoint, without reading its tensors."""
    return _read_manifest(folder).document


def describe_tensors(folder: Path, name: str) -> dict[str, Described]:
    """Types and shapes of the tensors in one file, from its header; empty if it is not listed.

    Raises:
        CheckpointError: If the file is missing or no file of tensors.
    """
    file = f"{name}{ENDING}"
    entry = _read_manifest(folder).files.get(file)
    if entry is None:
        return {}
    with _one_kind_of_error(folder / file):
        return read_header(folder / file).tensors


def delete_checkpoint(folder: Path) -> None:
    """Delete a checkpoint; if that is interrupted, nothing that looks like one is left."""
    temporary = _temporary(folder)
    _remove(temporary)
    folder.rename(temporary)
    shutil.rmtree(temporary)


def check_no_link(folder: Path) -> None:
    """Check that a folder of checkpoints is none elsewhere.

    Raises:
        CheckpointError: If it is a symbolic link.
    """
    if folder.is_symlink():
        raise CheckpointError(f"{folder}: is a symbolic link; it should be a folder")


def recover_checkpoint(folder: Path) -> None:
    """Restore a checkpoint that was moved aside for a new one which was never completed."""
    old = folder.with_name(f".{folder.name}.old")
    if folder.parent.is_symlink() or old.is_symlink() or os.path.lexists(folder):
        return
    if (old / MANIFEST).is_file():
        # another process may do the same
        with suppress(OSError):
            old.rename(folder)


def recover_checkpoints(folder: Path) -> None:
    """Restore all checkpoints in ``folder`` that were moved aside."""
    for old in folder.glob(".*.old"):
        recover_checkpoint(folder / old.name[1:].removesuffix(".old"))


def pack(checkpoint: Checkpoint) -> bytes:
    """A checkpoint as bytes, to be sent to another process; ``unpack`` restores it."""
    document = json.dumps(checkpoint.document).encode()
    named = {"document": torch.frombuffer(bytearray(document), dtype=torch.uint8)}
    for file, group in checkpoint.tensors.items():
        named |= {f"{file}/{name}": leaf for name, leaf in group.items()}
    return to_bytes(named)


def unpack(data: bytes) -> Checkpoint:
    """The checkpoint that ``pack`` turned into bytes."""
    named = load(data)
    document = json.loads(named.pop("document").numpy().tobytes())
    tensors: dict[str, dict[str, Tensor]] = {}
    for key, leaf in named.items():
        file, _, name = key.partition("/")
        tensors.setdefault(file, {})[name] = leaf
    return Checkpoint(tensors, document)


def load_tensors(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy saved parameters and buffers into a module; raises as ``check_tensors`` does."""
    check_tensors(module, tensors, where)
    undefined = first_undefined(tensors)
    if undefined is not None:
        raise CheckpointError(f"{where}: {undefined} is not finite")
    module.load_state_dict(dict(tensors))


def check_tensors(
    module: torch.nn.Module, tensors: Mapping[str, Tensor | Described], where: str
) -> None:
    """Check that tensors match a module's parameters and buffers in name, shape and type.

    Raises:
        CheckpointError: Naming the first tensor that is missing, unknown or of another shape.
    """
    own = module.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        for each, what in ((tensors, "missing"), (own, "unknown here")):
            if name not in each:
                raise CheckpointError(f"{where}: {name} is {what}; it was saved by another model")
        needed, given = own[name], tensors[name]
        if tuple(needed.shape) != tuple(given.shape):
            raise CheckpointError(
                f"{where}: {name} has shape {list(given.shape)}, "
                f"this policy needs {list(needed.shape)}"
            )
        if needed.dtype != given.dtype:
            raise CheckpointError(
                f"{where}: {name} is of {given.dtype}, this policy needs {needed.dtype}"
            )


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser, such as Adam's moments, by parameter number and name."""
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }


def load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load the state that ``optimizer_tensors`` returned.

    Raises:
        CheckpointError: If it was the state of an optimiser of other parameters.
    """
    groups = optimizer.state_dict()["param_groups"]
    parameters = [leaf for group in optimizer.param_groups for leaf in group["params"]]
    shapes = {str(index): leaf.shape for index, leaf in enumerate(parameters)}
    entries: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        # Adam's count of steps is a scalar
        if index not in shapes or tensor.shape not in (shapes[index], torch.Size([])):
            raise CheckpointError(f"optimizer: {key} belongs to no parameter of this model")
        entries.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    recover_checkpoint(folder)
    try:
        manifest = read_json(path, LARGEST_MANIFEST)
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: not a checkpoint, it has no {MANIFEST}") from None
    except FileError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{path}: not a manifest")
    manifest = cast(dict[str, Any], manifest)
    chosen = manifest.get("format")
    if type(chosen) is not int or chosen not in READERS:
        known = ", ".join(map(str, READERS))
        raise CheckpointError(f"{path}: format {chosen!r}; this version of fwrl reads {known}")
    files, document = manifest.get("files"), manifest.get("document")
    if not isinstance(files, dict) or not isinstance(document, dict):
        raise CheckpointError(f"{path}: not a manifest")
    document = cast(dict[str, Any], document)
    if manifest.get("document_sha256") != _document_hash(document):
        raise CheckpointError(f"{path}: damaged, its document is not what was saved")
    return Manifest(_entries(cast(dict[str, Any], files), READERS[chosen], path), document)


def _entries(files: dict[str, Any], reader: Callable[[Any], Entry], path: Path) -> dict[str, Entry]:
    if len(files) > MOST_FILES:
        raise CheckpointError(f"{path}: lists {len(files):,} files; at most {MOST_FILES} are read")
    entries: dict[str, Entry] = {}
    for name, described in files.items():
        if not FILE_NAME.fullmatch(name):
            raise CheckpointError(f"{path}: {name!r} is no name of a file of tensors")
        try:
            entries[name] = reader(described)
        except (ValueError, TypeError, KeyError):
            raise CheckpointError(f"{path}: not a manifest, of {name} it says nothing") from None
    return entries


def _entry_of_1(described: Any) -> Entry:
    """An entry of format 1: the sha256 alone."""
    return _entry(described, None)


def _entry_of_2(described: Any) -> Entry:
    size = described["size"]
    if type(size) is not int or size < 0:
        raise ValueError("no size")
    return _entry(described["sha256"], size)


def _entry(sha256: str, size: int | None) -> Entry:
    if not SHA256.fullmatch(sha256):
        raise ValueError("no sha256")
    return Entry(sha256, size)


# Readers of a manifest's entries, for every format that was ever written.
READERS: dict[int, Callable[[Any], Entry]] = {1: _entry_of_1, 2: _entry_of_2}


def _check_size(path: Path, size: int, entry: Entry) -> None:
    if entry.size not in (None, size):
        raise CheckpointError(
            f"{path}: damaged, it has {size:,} bytes and the manifest says {entry.size:,}"
        )


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: damaged, its sha256 is not the manifest's")


@contextmanager
def _one_kind_of_error(path: Path) -> Generator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: {error.strerror}; the checkpoint is not whole") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except FileError as error:
        raise CheckpointError(str(error)) from None


def _document_hash(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()


def _replace(folder: Path, new: Path) -> None:
    """Rename ``new`` to ``folder``; if that fails, the old folder keeps its name.

    A crash between the two renames is repaired by ``recover_checkpoint``.
    """
    old = folder.with_name(f".{folder.name}.old")
    for attempt in range(ATTEMPTS):
        _remove(old)
        if os.path.lexists(folder):
            folder.rename(old)
        try:
            new.rename(folder)
            break
        except OSError:
            # a reader may just have recovered the old folder
            if attempt + 1 == ATTEMPTS or not folder.exists():
                recover_checkpoint(folder)
                raise
    _remove(old)


def _temporary(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.tmp")


def _remove(path: Path) -> None:
    """Remove a folder with its content, or a file or link itself, as far as that is possible."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
