"""Files of tensors (safetensors), read by the safetensors library within bounds of our own.

The library checks the format: types, sizes, offsets without gap or overlap. It accepts two things
that are refused here: a header with two entries of one name (it takes the last), and one larger
than any honest header. Type and shape of each tensor are also read from the header here, before
the data: the library does so only for a path, which it opens even if it is a link or a pipe.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fwrl.files.json_files import parse_json
from fwrl.files.plain_files import MEBIBYTE, FileError, open_plain, read_exactly

LONGEST_HEADER = 16 * MEBIBYTE
MOST_TENSORS = 100_000
MOST_AXES = 16
# No file reaches this size; PyTorch's 64-bit sizes overflow beyond it.
LARGEST_SIZE = 2**48
METADATA = "__metadata__"
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


class Described(NamedTuple):
    """Type and shape of one tensor, as the header of a file states them."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes that the tensor takes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Header(NamedTuple):
    """The header of a file: the description of each tensor, and free text by name."""

    tensors: dict[str, Described]
    metadata: dict[str, str]


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The content of a file that holds these tensors; they may have any layout and device."""
    copies = {name: leaf.detach().cpu().contiguous() for name, leaf in tensors.items()}
    return save(copies, None if metadata is None else dict(metadata))


def first_undefined(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that has NaN or infinity in it."""
    for name, leaf in tensors.items():
        if leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
            return name
    return None


def read_header(path: Path, links: bool = False) -> Header:
    """The header of a file, which may be a symbolic link if ``links``; no tensor is read.

    Raises:
        FileNotFoundError: If the file does not exist.
        FileError: If it is not a regular file, or its header does not fit its size.
    """
    with open_plain(path, links) as (file, size):
        length = _header_length(read_exactly(file, path, min(size, 8)), size, path)
        return _parse_header(read_exactly(file, path, length), size - 8 - length, path)


def from_bytes(data: bytes, path: Path) -> tuple[dict[str, Tensor], Header]:
    """The tensors in the content of a file, and its header.

    Raises:
        FileError: If the content is not that of a safetensors file; ``path`` opens the message.
    """
    length = _header_length(data[:8], len(data), path)
    header = _parse_header(data[8 : 8 + length], len(data) - 8 - length, path)
    try:
        return load(data), header
    # PyTorch's own, where sizes beside a zero overflow when they are multiplied
    except (SafetensorError, RuntimeError) as error:
        raise FileError(f"{path}: not a safetensors file ({error})") from None
    except MemoryError:
        raise FileError(f"{path}: its tensors do not fit into memory") from None


def _header_length(first: bytes, size: int, path: Path) -> int:
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length > min(size - 8, LONGEST_HEADER):
        raise FileError(f"{path}: not a safetensors file (its header has no end)")
    return length


def _parse_header(data: bytes, size: int, path: Path) -> Header:
    """The header of a file that has ``size`` bytes of tensors; names are unique, sizes bounded."""
    where = f"{path}: not a safetensors file"
    # the format allows nothing before the brace
    if data[:1] != b"{":
        raise FileError(f"{where} (its header is no object)")
    entries: dict[str, Any] = parse_json(data, where)
    metadata = entries.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(t, str) for t in metadata.values()):
        raise FileError(f"{where} (its metadata is no texts)")
    if len(entries) > MOST_TENSORS:
        raise FileError(f"{where} (it has {len(entries):,} tensors; at most {MOST_TENSORS:,})")
    tensors = {name: _parse_entry(name, entry, where) for name, entry in entries.items()}
    total = sum(described.size for described in tensors.values())
    if total != size:
        raise FileError(f"{where} (its tensors have {total:,} bytes, the file {size:,})")
    return Header(tensors, cast(dict[str, str], metadata))


def _parse_entry(name: str, entry: Any, where: str) -> Described:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape]} if (
            dtype in DTYPES and len(shape) <= MOST_AXES and all(map(_is_size, shape))
        ):
            return Described(DTYPES[dtype], tuple(shape))
        case _:
            raise FileError(
                f"{where} ({name!r} is no tensor with a type of {', '.join(DTYPES)} "
                f"and a shape of at most {MOST_AXES} axes)"
            )


def _is_size(value: Any) -> bool:
    # True is an integer to Python, and none to the format
    return type(value) is int and 0 <= value < LARGEST_SIZE
