"""Tensors where they lie on disk: found by name, read one at a time into memory of their own."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fusegpt.errors import ArtifactError

__all__ = ["Stored", "stored_in"]

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Names of types in safetensors files; quantised ones are refused before."""


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


def stored_in(files: Iterable[Path]) -> dict[str, Stored]:
    """Find the tensors of some safetensors files by name; no values are read.

    Raises:
        ArtifactError: A file is missing, cut, or no safetensors file.
    """
    return {name: tensor for file in files for name, tensor in _tensors(file).items()}


def _tensors(file: Path) -> dict[str, Stored]:
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, size)))
        header.pop("__metadata__", None)
        found = {name: _tensor(file, 8 + length, entry) for name, entry in header.items()}
        end = max((one.begin + one.nbytes for one in found.values()), default=8 + length)
        if end != size:
            raise ValueError(f"must have {end} bytes, has {size}")
    except OSError as error:
        raise ArtifactError(f"{file}: not a readable safetensors file: {error}") from error
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{file}: not a readable safetensors file: {error}") from error
    return found


def _tensor(file: Path, start: int, entry: dict[str, Any]) -> Stored:
    begin, end = entry["data_offsets"]
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"no tensor of type {entry['dtype']} is read here")
    tensor = Stored(file, start + begin, tuple(entry["shape"]), DTYPES[entry["dtype"]])
    if begin < 0 or end - begin != tensor.nbytes:
        raise ValueError(f"{end - begin} bytes for {tensor.shape} of {entry['dtype']}")
    return tensor
