"""Windows of token ids: random ones for calibration, consecutive ones for perplexity.

What a file of windows says of itself is read here, without torch; `window_files` has the rest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusegpt.errors import ArtifactError, DataError, first_line
from fusegpt.results import digests
from fusegpt.results.base import check
from fusegpt.results.files import WindowsMeta

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

__all__ = [
    "COLUMN",
    "META_KEY",
    "at_random",
    "batches",
    "check_content",
    "consecutive",
    "content_digest",
    "draw",
    "is_windows_file",
    "read_meta",
]

META_KEY = b"fusegpt"
COLUMN = "input_ids"
"""The column of token ids, one window a row."""


def at_random(token_ids: np.ndarray, sequences: int, length: int, seed: int) -> np.ndarray:
    """Cut ``sequences`` windows at uniformly random places, with replacement.

    Window i starts at sha256("seed:i") modulo the number of places, so the first windows of a
    larger draw are the smaller draw, with any version of any library.

    Args:
        token_ids: The corpus, ``[tokens]`` integers.
        sequences: Number of windows, at least 1.
        length: Tokens per window, at least 1.
        seed: Any integer.

    Returns:
        ``[sequences, length]`` int32.

    Raises:
        DataError: The corpus is shorter than one window.
    """
    _check_length(len(token_ids), length)
    places = len(token_ids) - length + 1
    starts = [draw(seed, i) % places for i in range(sequences)]
    return np.stack([token_ids[s : s + length] for s in starts]).astype(np.int32)


def consecutive(token_ids: np.ndarray, length: int, limit: int | None = None) -> np.ndarray:
    """Cut a corpus into windows that follow each other; the remainder is dropped.

    Args:
        token_ids: The corpus, ``[tokens]`` integers.
        length: Tokens per window, at least 1.
        limit: Keep the first ``limit`` windows only.

    Returns:
        ``[windows, length]`` int32.

    Raises:
        DataError: The corpus is shorter than one window, or than ``limit`` windows.
    """
    _check_length(len(token_ids), length)
    there = len(token_ids) // length
    if limit is not None and limit > there:
        raise DataError(
            f"text too short for the windows asked: {len(token_ids)} tokens there, {limit} windows"
            f" of {length} need {limit * length}; lower the windows to {there}, or the length"
        )
    count = there if limit is None else limit
    return token_ids[: count * length].reshape(count, length).astype(np.int32)


def read_meta(path: Path) -> WindowsMeta:
    """Read what ``write_windows`` noted: corpus, split, sequences, length, seed, ...

    A file with a column ``input_ids`` that something else wrote says nothing of itself.

    Raises:
        ArtifactError: Missing, corrupt, or not a windows file.
    """
    notes = _notes(path)
    if isinstance(notes, dict):
        notes.pop(digests.KEY, None)
    return WindowsMeta() if notes is None else check(notes, WindowsMeta, path)


def content_digest(table: pa.Table, notes: Mapping[str, Any]) -> str:
    """Return a digest of what windows hold and of what they say of themselves.

    Args:
        table: Columns of lists of whole numbers, or of bytes.
        notes: What stands in the file's metadata, but the digest.
    """
    import pyarrow as pa

    found = hashlib.sha256(digests.digest_of(dict(notes)).encode())
    for name in sorted(table.column_names):
        column = table.column(name).combine_chunks()
        if pa.types.is_list(column.type):
            values = column.flatten().to_numpy(zero_copy_only=False)
            lengths = column.value_lengths().to_numpy(zero_copy_only=False)
            parts = [lengths.astype(np.int64).tobytes(), values.astype(np.int64).tobytes()]
        else:
            parts = column.to_pylist()
        for part in (name.encode(), *parts):
            found.update(f"{len(part)} ".encode())
            found.update(part)
    return found.hexdigest()


def check_content(path: Path) -> bool:
    """Compare a file of windows with the digest in its metadata.

    Returns:
        Whether it has one.

    Raises:
        ArtifactError: Missing, corrupt, not a windows file, or not what was written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    notes = _notes(path)
    if not isinstance(notes, dict) or digests.KEY not in notes:
        return False
    said = notes.pop(digests.KEY)
    try:
        same = said == content_digest(pq.read_table(path), notes)
    except (pa.ArrowException, OSError, AttributeError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: not a readable windows file ({first_line(error)})") from error
    if not same:
        raise ArtifactError(
            f"{path}: must hold the windows that were written, its digest says that it does not;"
            " delete it and sample again"
        )
    return True


def is_windows_file(path: Path) -> bool:
    """Whether ``path`` is a parquet file of windows, not one of text."""
    path = Path(path)
    return path.suffix == ".parquet" and path.is_file() and COLUMN in _schema(path)[0]


def batches(windows: Tensor, batch_size: int, drop_last: bool = False) -> list[Tensor]:
    """Split ``[sequences, length]`` into ``[batch, length]`` pieces, in order."""
    pieces = list(windows.split(batch_size))
    return pieces[:-1] if drop_last and len(pieces[-1]) < batch_size else pieces


def _schema(path: Path) -> tuple[list[str], dict[bytes, bytes]]:
    """The names of a parquet file's columns, and its notes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        raise ArtifactError(f"{path}: no such file; make one with `fusegpt sample`")
    try:
        schema = pq.read_schema(path)
        return schema.names, schema.metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(f"{path}: not a readable parquet file ({first_line(error)})") from error


def _notes(path: Path) -> Any:
    """What a file of windows says of itself; None: something else wrote it."""
    names, metadata = _schema(path)
    if META_KEY not in metadata:
        if COLUMN in names:
            return None
        raise ArtifactError(f"{path}: not a windows file; make one with `fusegpt sample`")
    try:
        return json.loads(metadata[META_KEY])
    except ValueError as error:
        raise ArtifactError(f"{path}: not a readable windows file ({first_line(error)})") from error


def draw(seed: int, index: int) -> int:
    """A 64-bit number from a seed and a place; equal with any version of any library."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{index}".encode()).digest()[:8], "big")


def _check_length(tokens: int, length: int) -> None:
    if tokens < length:
        raise DataError(
            f"text too short for the windows asked: {tokens} tokens there, one window needs"
            f" {length}; lower the length to {tokens} or less"
        )
