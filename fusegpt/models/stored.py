"""Tensors where they lie on disk: found by name, read one at a time into memory of their own."""

from __future__ import annotations

import functools
import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fusegpt.errors import ArtifactError
from fusegpt.tensor_files import TensorPlace, read_header

__all__ = ["Joined", "Stored", "metadata_of", "stored_in", "write_tensors"]

DTYPES = {
    "I64": torch.int64,
    "F64": torch.float64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Names of types in safetensors files, in the order in which a file has them; quantised ones are
refused before."""
COMPARED = 2**22
"""Bytes that are compared at a time."""


@dataclass(frozen=True)
class Stored:
    """One tensor of a safetensors file.

    Attributes:
        file: The file.
        begin: Place of its first byte in the file.
        shape: Its shape.
        dtype: The dtype that it is stored in.
    """

    file: Path
    begin: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> Tensor:
        """Return the values in memory of their own, aligned as all that torch allocates.

        The file is not mapped: nothing of it stays in this process, and equal weights lie alike,
        so that equal runs give equal bits.

        Raises:
            ArtifactError: The file is gone, or shorter than it was.
        """
        tensor = torch.empty(self.shape, dtype=self.dtype)
        rest = memoryview(tensor.reshape(-1).view(torch.uint8).numpy()[: self.nbytes].data)
        try:
            with open(self.file, "rb", buffering=0) as stream:
                stream.seek(self.begin)
                while rest:
                    count = stream.readinto(rest)
                    if not count:
                        raise OSError("it is shorter than it was")
                    rest = rest[count:]
        except OSError as error:
            raise ArtifactError(f"{self.file}: cannot be read: {error}") from error
        return tensor

    def equals(self, other: Stored) -> bool:
        """Whether another tensor has the same type, shape and bytes; a few MiB are read at a time.

        Raises:
            ArtifactError: A file is gone.
        """
        if (self.dtype, self.shape) != (other.dtype, other.shape):
            return False
        try:
            with open(self.file, "rb") as own, open(other.file, "rb") as others:
                own.seek(self.begin)
                others.seek(other.begin)
                for first in range(0, self.nbytes, COMPARED):
                    count = min(COMPARED, self.nbytes - first)
                    if own.read(count) != others.read(count):
                        return False
        except OSError as error:
            raise ArtifactError(f"{self.file}: cannot be read: {error}") from error
        return True


@dataclass(frozen=True)
class Joined:
    """A tensor that a model keeps as one and its files keep in parts, such as stacked experts.

    Attributes:
        parts: Its parts, in order.
        dim: The axis along which they follow each other.
        stacked: Whether that axis is a new one, along which each part has one place.
    """

    parts: tuple[Stored | Joined, ...]
    dim: int
    stacked: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        first = self.parts[0].shape
        if self.stacked:
            return (*first[: self.dim], len(self.parts), *first[self.dim :])
        whole = sum(part.shape[self.dim] for part in self.parts)
        return (*first[: self.dim], whole, *first[self.dim + 1 :])

    @property
    def dtype(self) -> torch.dtype:
        """The widest dtype of the parts."""
        return functools.reduce(torch.promote_types, (part.dtype for part in self.parts))

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(part.nbytes for part in self.parts)

    def read(self) -> Tensor:
        """Return the values in memory of their own; one part at a time is there twice."""
        tensor = torch.empty(self.shape, dtype=self.dtype)
        if self.stacked:
            places = tensor.unbind(self.dim)
        else:
            places = tensor.split([part.shape[self.dim] for part in self.parts], self.dim)
        for place, part in zip(places, self.parts, strict=True):
            place.copy_(part.read())
        return tensor


def stored_in(files: Iterable[Path]) -> dict[str, Stored]:
    """Find the tensors of some safetensors files by name; no values are read.

    Raises:
        ArtifactError: A file is missing, cut, or no safetensors file.
    """
    return {name: tensor for file in files for name, tensor in _tensors(file).items()}


def metadata_of(file: Path) -> dict[str, str]:
    """Return what a safetensors file says of itself; nothing where it says nothing.

    Raises:
        ArtifactError: A file is missing, or no safetensors file.
    """
    return dict(read_header(file).metadata)


def write_tensors(
    file: Path,
    kinds: Mapping[str, tuple[torch.dtype, Sequence[int]]],
    value: Callable[[str], Tensor],
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file as the library does, with one tensor at a time in memory.

    Args:
        file: The file.
        kinds: Dtype and shape of each tensor.
        value: Returns a tensor by its name; called once for each.
        metadata: What the file says of itself.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    order = list(names)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in sorted(kinds, key=lambda name: (order.index(kinds[name][0]), name)):
        dtype, shape = kinds[name]
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        entry = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        header[name] = entry
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in header:
            if name != "__metadata__":
                tensor = value(name).contiguous()
                stream.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _tensors(file: Path) -> dict[str, Stored]:
    header = read_header(file)
    try:
        found = {name: _tensor(file, place) for name, place in header.tensors.items()}
        if header.end != header.size:
            raise ValueError(f"must have {header.end} bytes, has {header.size}")
    except ValueError as error:
        raise ArtifactError(f"{file}: not a readable safetensors file ({error})") from error
    return found


def _tensor(file: Path, place: TensorPlace) -> Stored:
    if place.dtype not in DTYPES:
        raise ValueError(f"no tensor of type {place.dtype} is read here")
    tensor = Stored(file, place.begin, place.shape, DTYPES[place.dtype])
    if place.end - place.begin != tensor.nbytes:
        raise ValueError(f"{place.end - place.begin} bytes for {place.shape} of {place.dtype}")
    return tensor
