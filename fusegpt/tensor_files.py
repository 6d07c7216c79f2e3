"""What stands before the values of a safetensors file: which tensors it holds, and where."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusegpt.errors import ArtifactError

__all__ = ["Header", "TensorPlace", "read_header"]


@dataclass(frozen=True)
class TensorPlace:
    """A tensor of a safetensors file.

    Attributes:
        dtype: The format's name of its type, as ``BF16``.
        shape: Its shape.
        begin: Place of its first byte in the file.
        end: Place behind its last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file.

    Attributes:
        metadata: What the file says of itself.
        tensors: By name, in the order of the header.
        begin: Place of the first value.
        size: Bytes of the file.
    """

    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorPlace]
    begin: int
    size: int

    @property
    def end(self) -> int:
        """Bytes that the file must have."""
        return max((place.end for place in self.tensors.values()), default=self.begin)


def read_header(file: Path) -> Header:
    """Read which tensors a safetensors file holds, and where; no values.

    Raises:
        ArtifactError: It cannot be read, or is no safetensors file; whether it is as long as its
            header says is not asked.
    """
    try:
        with file.open("rb") as stream:
            size = file.stat().st_size
            (length,) = struct.unpack("<Q", stream.read(8))
            tensors: Any = json.loads(stream.read(min(length, size)))
        if not isinstance(tensors, dict):
            raise TypeError(f"its header must be a table, got {type(tensors).__name__}")
        metadata = dict(tensors.pop("__metadata__", {}))
        places = {name: _place(entry, 8 + length) for name, entry in tensors.items()}
    except (*(OSError, struct.error, ValueError, LookupError, TypeError),) as error:
        raise ArtifactError(f"{file}: not a readable safetensors file ({error})") from error
    return Header(metadata, places, 8 + length, size)


def _place(entry: Mapping[str, Any], start: int) -> TensorPlace:
    first, last = map(int, entry["data_offsets"])
    if not 0 <= first <= last:
        raise ValueError(f"no tensor lies from {first} to {last}")
    return TensorPlace(
        str(entry["dtype"]), tuple(map(int, entry["shape"])), start + first, start + last
    )
