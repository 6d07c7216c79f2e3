"""A recovery that goes on: the rows that its resume file tells of, without its tensors."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from fusegpt.errors import ArtifactError
from fusegpt.results.digests import KEY, digest_of
from fusegpt.results.recovered import TrainingRow

__all__ = [
    "FINGERPRINT",
    "ROWS",
    "STEPS",
    "Unfinished",
    "check_unfinished",
    "read_unfinished",
    "state_digest",
]

FINGERPRINT, ROWS, STEPS = "fingerprint", "rows", "steps"
"""Keys of the resume file's metadata: what it belongs to, the rows as JSON, how many there will be.

Files written before version 0.2 do not say how many there will be.
"""


@dataclass(frozen=True)
class Unfinished:
    """How far a recovery had come when its state was last saved.

    Attributes:
        rows: One per optimiser step.
        steps: Optimiser steps in all; None: not known.
    """

    rows: tuple[TrainingRow, ...] = ()
    steps: int | None = None


def read_unfinished(file: Path) -> Unfinished:
    """Read the metadata of a resume file; nothing where there is none, or none that can be read.

    Whoever looks on cannot know that a file stays: the recovery deletes it when it ends.
    """
    try:
        with safe_open(file, framework="numpy") as opened:
            about = opened.metadata() or {}
        rows = tuple(TrainingRow.model_validate(row) for row in json.loads(about.get(ROWS, "[]")))
        return Unfinished(rows, int(about[STEPS]) if STEPS in about else None)
    except (OSError, SafetensorError, TypeError, ValueError, ValidationError):
        return Unfinished()


def state_digest(
    about: Mapping[str, str], tensors: Iterable[tuple[str, Sequence[int], Any]]
) -> str:
    """Return the digest of a resume file.

    Args:
        about: Its metadata, but the digest.
        tensors: Name, shape and bytes of each, in the order of names.
    """
    found = hashlib.sha256(digest_of(dict(about)).encode())
    for name, shape, content in tensors:
        found.update(f"{name} {list(shape)}".encode())
        found.update(content)
    return found.hexdigest()


def check_unfinished(file: Path) -> bool:
    """Compare a resume file with its digest, one tensor at a time.

    Returns:
        Whether it has one.

    Raises:
        ArtifactError: It cannot be read, or is not what was written.
    """
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, file.stat().st_size)))
            about = header.pop("__metadata__", {})
            said = about.pop(KEY, None)
            same = said is None or said == state_digest(about, _tensors(stream, 8 + length, header))
    except (OSError, struct.error, ValueError, AttributeError, KeyError, TypeError) as error:
        raise ArtifactError(f"{file}: not a readable resume file ({error})") from None
    if not same:
        raise ArtifactError(f"{file}: must be what was written, its digest says that it is not")
    return said is not None


def _tensors(stream: BinaryIO, start: int, header: Mapping[str, Any]) -> Iterator[Any]:
    for name in sorted(header):
        first, last = header[name]["data_offsets"]
        stream.seek(start + first)
        yield name, header[name]["shape"], stream.read(last - first)
