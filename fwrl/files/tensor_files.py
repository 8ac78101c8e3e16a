"""Files of tensors (safetensors): what a file says of itself is known before it is believed.

A file is a number, a header in JSON, and the tensors one after another without gaps. The reader of
the library is safe in memory but takes of two entries with one name the last, and allocates
what the header says: here the header is held against the file first.
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

ENDING = ".safetensors"
LONGEST_HEADER = 16 * MEBIBYTE
MOST_TENSORS = 100_000
MOST_AXES = 16
# What no file reaches; beyond, products of sizes overflow.
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
    """What a header says of one tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Header(NamedTuple):
    """What a file of tensors says of itself."""

    tensors: dict[str, Described]
    metadata: dict[str, str]


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The file of these tensors, of any layout and device."""
    copies = {name: leaf.detach().cpu().contiguous() for name, leaf in tensors.items()}
    return save(copies, None if metadata is None else dict(metadata))


def read_header(path: Path, links: bool = False) -> Header:
    """The header of a file, whose tensors stay on the disk.

    Args:
        path: Of the file.
        links: Whether the last name of the path may be a symbolic link.

    Raises:
        FileNotFoundError: If there is none.
        FileError: If it is no regular file, or not of tensors.
    """
    with open_plain(path, links) as (file, size):
        length = _header_length(read_exactly(file, path, min(size, 8)), size, path)
        return _parse_header(read_exactly(file, path, length), size - 8 - length, path)


def from_bytes(data: bytes, path: Path) -> tuple[dict[str, Tensor], Header]:
    """The tensors of a file that has been read.

    Raises:
        FileError: If it is not one.
    """
    length = _header_length(data[:8], len(data), path)
    header = _parse_header(data[8 : 8 + length], len(data) - 8 - length, path)
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise FileError(f"{path}: not a safetensors file ({error})") from None
    except MemoryError:
        raise FileError(f"{path}: its tensors do not fit into memory") from None
    return tensors, header


def _header_length(first: bytes, size: int, path: Path) -> int:
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length > min(size - 8, LONGEST_HEADER):
        raise FileError(f"{path}: not a safetensors file (its header has no end)")
    return length


def _parse_header(data: bytes, size: int, path: Path) -> Header:
    """The header, which must describe ``size`` bytes without gap or overlap."""
    where = f"{path}: not a safetensors file"
    # as the format demands, so that nothing else can be read as one
    if data[:1] != b"{":
        raise FileError(f"{where} (its header is no object)")
    entries: dict[str, Any] = parse_json(data, where)
    metadata = entries.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(t, str) for t in metadata.values()):
        raise FileError(f"{where} (its metadata is no texts)")
    if len(entries) > MOST_TENSORS:
        raise FileError(f"{where} (it has {len(entries):,} tensors; at most {MOST_TENSORS:,})")
    tensors: dict[str, Described] = {}
    places: list[tuple[int, int]] = []
    for name, entry in entries.items():
        described, begin, end = _parse_entry(name, entry, where)
        # of an empty tensor nothing can overlap
        if end - begin != described.size or begin < 0:
            raise FileError(f"{where} ({name!r} has another size than its shape says)")
        tensors[name] = described
        places.append((begin, end))
    place = 0
    for begin, end in sorted(places):
        if begin != place:
            raise FileError(f"{where} (its tensors overlap or leave gaps)")
        place = end
    if place != size:
        raise FileError(f"{where} (its tensors have {place:,} bytes, the file {size:,})")
    return Header(tensors, cast(dict[str, str], metadata))


def _parse_entry(name: str, entry: Any, where: str) -> tuple[Described, int, int]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise FileError(f"{where} ({name!r} is not described as a tensor is)")
    entry = cast(dict[str, Any], entry)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FileError(f"{where} ({name!r} is of type {dtype!r}; choose from {', '.join(DTYPES)})")
    if not _are_sizes(shape) or len(shape) > MOST_AXES:
        raise FileError(f"{where} ({name!r} has no shape)")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise FileError(f"{where} ({name!r} has no place)")
    return Described(DTYPES[dtype], tuple(shape)), offsets[0], offsets[1]


def _are_sizes(value: Any) -> bool:
    """Whether it is a list of integers from 0 on; True and False are none."""
    return isinstance(value, list) and all(
        type(size) is int and 0 <= size < LARGEST_SIZE for size in cast(list[Any], value)
    )
