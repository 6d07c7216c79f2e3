"""Windows of token ids: random ones for calibration, consecutive ones for perplexity.

What a file of windows says of itself is read here, without torch; `window_files` has the rest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
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
    "ROWS",
    "at_random",
    "batches",
    "check_content",
    "consecutive",
    "content_digest",
    "draw",
    "full_batches",
    "is_windows_file",
    "read_meta",
]

META_KEY = b"fusegpt"
COLUMN = "input_ids"
"""The column of token ids, one window a row."""
ROWS = 512
"""Windows that are in memory at one time while a file is read piece by piece."""


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
    return _digest(notes, table.schema, lambda name: table.column(name).chunks)


def _digest(
    notes: Mapping[str, Any], schema: pa.Schema, pieces: Callable[[str], Iterable[pa.Array]]
) -> str:
    """The digest of columns that are seen piece by piece; how they are cut changes nothing."""
    import pyarrow as pa

    found = hashlib.sha256(digests.digest_of(dict(notes)).encode())

    def add(parts: Iterable[bytes], size: int) -> None:
        found.update(f"{size} ".encode())
        for part in parts:
            found.update(part)

    for name in sorted(schema.names):
        add([name.encode()], len(name.encode()))
        if pa.types.is_list(schema.field(name).type):
            each = [one.value_lengths().to_numpy(zero_copy_only=False) for one in pieces(name)]
            lengths = np.concatenate([np.empty(0, np.int64), *each]).astype(np.int64)
            add([lengths.tobytes()], lengths.nbytes)
            values = (one.flatten().to_numpy(zero_copy_only=False) for one in pieces(name))
            add((one.astype(np.int64).tobytes() for one in values), 8 * int(lengths.sum()))
            continue
        for part in (part for one in pieces(name) for part in one.to_pylist()):
            add([part], len(part))
    return found.hexdigest()


def check_content(path: Path) -> bool:
    """Compare a file of windows with the digest in its metadata; it is never in memory whole.

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
        with pq.ParquetFile(path) as file:

            def pieces(name: str) -> Iterator[pa.Array]:
                for batch in file.iter_batches(batch_size=ROWS, columns=[name]):
                    yield batch.column(0)

            same = said == _digest(notes, file.schema_arrow, pieces)
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


def batches(windows: Tensor, batch_size: int) -> list[Tensor]:
    """Split ``[sequences, length]`` into ``[batch, length]`` pieces, in order."""
    return list(windows.split(batch_size))


def full_batches(windows: Tensor, batch_size: int) -> list[Tensor]:
    """Split as ``batches`` does, without a ragged last one.

    Raises:
        DataError: The windows do not fill one batch.
    """
    if len(windows) < batch_size:
        raise DataError(
            f"finetune data: {len(windows)} sequences do not fill one batch of {batch_size}"
        )
    return batches(windows, batch_size)[: len(windows) // batch_size]


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
        raise ArtifactError(
            f"{path}: not a readable parquet file, as windows are; make some with `fusegpt sample`"
            f" ({first_line(error)})"
        ) from error


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
