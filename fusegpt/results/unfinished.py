"""A recovery that goes on: the rows that its resume file tells of, without its tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from fusegpt.errors import ArtifactError
from fusegpt.results.digests import KEY, digest_of
from fusegpt.results.recovered import TrainingRow
from fusegpt.tensor_files import Header, read_header

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
    header = read_header(file)
    about = dict(header.metadata)
    said = about.pop(KEY, None)
    try:
        same = said is None or said == state_digest(about, _tensors(file, header))
    except OSError as error:
        raise ArtifactError(f"{file}: not a readable resume file ({error})") from None
    if not same:
        raise ArtifactError(f"{file}: must be what was written, its digest says that it is not")
    return said is not None


def _tensors(file: Path, header: Header) -> Iterator[tuple[str, Sequence[int], bytes]]:
    with file.open("rb") as stream:
        for name, place in sorted(header.tensors.items()):
            stream.seek(place.begin)
            yield name, place.shape, stream.read(place.end - place.begin)
