"""Windows that a long training reads from disk, a batch at a time; they are never held whole."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fusegpt.data.window_files import ANSWERS, MASK, check_ids, check_kind, directory_for
from fusegpt.data.windows import COLUMN, ROWS, check_content, read_meta
from fusegpt.disk import room_for, take_room
from fusegpt.errors import ArtifactError, DataError, first_line

__all__ = ["Streamed", "stream_windows"]

MASKS = (MASK, ANSWERS)
"""Optional columns: which tokens are no padding, and which of them are to be learned."""


@dataclass(frozen=True)
class Streamed:
    """Windows of one length.

    Attributes:
        ids: ``[sequences, length]`` int32, in memory or mapped from disk.
        learned: ``[sequences, length]`` bool: tokens that are to be predicted; None: all.
    """

    ids: np.ndarray
    learned: np.ndarray | None = None

    @classmethod
    def of(cls, ids: Tensor, learned: Tensor | None = None) -> Streamed:
        """Return windows that are in memory anyway."""
        return cls(ids.numpy().astype(np.int32), None if learned is None else learned.numpy())

    @property
    def sequences(self) -> int:
        """Number of windows."""
        return int(self.ids.shape[0])

    @property
    def length(self) -> int:
        """Tokens of one window."""
        return int(self.ids.shape[1])

    def tokens(self, start: int, stop: int) -> Tensor:
        """Return windows ``[stop - start, length]`` int64."""
        return torch.from_numpy(self.ids[start:stop].astype(np.int64))

    def targets(self, start: int, stop: int) -> Tensor:
        """Return which next tokens count, ``[stop - start, length - 1]`` bool."""
        if self.learned is None:
            return torch.ones(stop - start, self.length - 1, dtype=torch.bool)
        return torch.from_numpy(np.array(self.learned[start:stop, 1:]))


def stream_windows(model: Path, path: Path, scratch: Path) -> Streamed:
    """Read windows that a model is to be trained on into a file that is mapped into memory.

    Args:
        model: Its directory, or the manifest of a step.
        path: The file of windows.
        scratch: A folder with space for them; nothing stays there.

    Raises:
        ArtifactError: The file is missing, corrupt, holds no windows of one length, or padding
            elsewhere than at their end; or the scratch folder has no room.
        DataError: They are tokens of another tokenizer, ids or lengths that the model has not,
            have pictures, or nothing of them is to be learned.
    """
    if read_meta(path).extras is not None:
        raise DataError(f"{path}: a finish trains on text, got windows with pictures")
    directory = directory_for(model, path)
    check_content(path)
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ArtifactError(f"{path}: not a readable windows file ({first_line(error)})") from error
    masks = [name for name in MASKS if name in file.schema_arrow.names]
    check_kind(file.schema_arrow.field(COLUMN).type, path)
    count, length = file.metadata.num_rows, 0
    ids = learned = np.empty((0, 0))
    for start, rows in _pieces(file, [COLUMN, *masks], path):
        if not length:
            length = rows[COLUMN].shape[1]
            ids = _mapped(scratch, (count, length), np.int32)
            learned = _mapped(scratch, (count, length), np.bool_)
        stop = start + len(rows[COLUMN])
        if (directory / "config.json").is_file():
            check_ids(directory, torch.from_numpy(rows[COLUMN].astype(np.int64)), str(path))
        ids[start:stop] = rows[COLUMN]
        learned[start:stop] = np.logical_and.reduce(
            [np.ones_like(rows[COLUMN], dtype=np.bool_), *(rows[name] for name in masks)]
        )
    if not length:
        raise DataError(f"{path}: must hold at least one window, got none")
    if masks and not any(
        learned[start : start + ROWS, 1:].any() for start in range(0, count, ROWS)
    ):
        raise DataError(f"{path}: its masks ({', '.join(masks)}) leave no token to learn")
    return Streamed(ids, learned if masks else None)


def _pieces(
    file: pq.ParquetFile, columns: list[str], path: Path
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Some windows at a time, with the number of the first."""
    start, length = 0, None
    for batch in _batches(file, columns, path):
        found = {}
        for name in columns:
            column = batch.column(batch.schema.get_field_index(name))
            if name in MASKS and column.type != pa.list_(pa.bool_()):
                raise ArtifactError(f"{path}: {name} must hold true or false for every token id")
            lengths = set(column.value_lengths().to_pylist())
            length = lengths.copy().pop() if length is None else length
            if lengths != {length} or not length or column.flatten().null_count:
                raise ArtifactError(
                    f"{path}: windows must have one length of at least one token, got"
                    f" {sorted(lengths, key=str)} in column {name}"
                )
            values = column.flatten().to_numpy(zero_copy_only=False)
            found[name] = values.reshape(len(column), length)
        mask = found.get(MASK)
        if mask is not None and (mask[:, 1:] & ~mask[:, :-1]).any():
            raise ArtifactError(f"{path}: {MASK} must be false behind a window's tokens alone")
        yield start, found
        start += batch.num_rows


def _batches(file: pq.ParquetFile, columns: list[str], path: Path) -> Iterator[pa.RecordBatch]:
    """The rows of a file, some at a time."""
    try:
        yield from file.iter_batches(batch_size=ROWS, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(f"{path}: not a readable windows file ({first_line(error)})") from error


def _mapped(folder: Path, shape: tuple[int, int], dtype: Any) -> np.ndarray:
    """An array in a file that is gone as soon as nobody has it open.

    Raises:
        ArtifactError: The disk has no room for it.
    """
    size = shape[0] * shape[1] * np.dtype(dtype).itemsize
    with (
        room_for(f"{size / 2**20:.3g} MiB of windows", folder),
        tempfile.TemporaryFile(dir=folder) as stream,
    ):
        take_room(stream.fileno(), size)
        return np.memmap(stream, dtype=dtype, mode="r+", shape=shape)
