"""Files of windows: token ids as parquet, with their pictures where they have some."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fusegpt.artifacts import atomic_path
from fusegpt.data.pictured import Pictured
from fusegpt.data.windows import META_KEY, read_meta
from fusegpt.errors import ArtifactError, first_line
from fusegpt.results.files import ExtraColumn

__all__ = ["read_windows", "write_windows"]


def write_windows(path: Path, windows: np.ndarray | Tensor, meta: Mapping[str, Any]) -> None:
    """Write windows as parquet, in one piece.

    Args:
        path: The file.
        windows: Token ids ``[sequences, length]``, with their pictures or without.
        meta: What the file says of itself: corpus, split, sequences, length, seed, ...
    """
    pictured = isinstance(windows, Pictured)
    ids = np.asarray(windows.plain() if isinstance(windows, Pictured) else windows, dtype=np.int32)
    columns = {"input_ids": pa.array(list(ids), type=pa.list_(pa.int32()))}
    described = dict(meta)
    if isinstance(windows, Pictured):
        extras, described["extras"] = _extras(windows)
        columns |= extras
    table = pa.table(columns).replace_schema_metadata({META_KEY: json.dumps(described).encode()})
    with atomic_path(Path(path)) as partial:
        pq.write_table(table, partial, compression="snappy" if pictured else "zstd")


def read_windows(path: Path) -> Tensor:
    """Read a file of ``write_windows``.

    Returns:
        ``[sequences, length]`` int64 on the CPU; with their pictures, where the file has some.

    Raises:
        ArtifactError: Missing, corrupt, no windows file, or rows of different lengths.
    """
    meta = read_meta(path)
    try:
        column = pq.read_table(path, columns=["input_ids"]).column("input_ids").combine_chunks()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ArtifactError(f"{path}: not a readable windows file ({first_line(error)})") from error
    lengths = set(column.value_lengths().to_pylist())
    if len(lengths) != 1:
        raise ArtifactError(f"{path}: windows must have one length, got {sorted(lengths)}")
    flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    ids = torch.from_numpy(flat.reshape(len(column), lengths.pop()))
    return ids if meta.extras is None else _with_pictures(path, ids, meta.extras)


def _extras(windows: Pictured) -> tuple[dict[str, pa.Array], dict[str, Any]]:
    """A column of bytes for each kind of extra tensor, and how to read it back."""
    columns, described = {}, {}
    for name, first in windows.extras[0].items():
        shapes = [list(extra[name].shape) for extra in windows.extras]
        described[name] = {"dtype": str(first.numpy().dtype), "shapes": shapes}
        columns[name] = pa.array([extra[name].numpy().tobytes() for extra in windows.extras])
    return columns, described


def _with_pictures(path: Path, ids: Tensor, described: Mapping[str, ExtraColumn]) -> Pictured:
    table = pq.read_table(path, columns=list(described))
    extras: list[dict[str, Tensor]] = [{} for _ in range(len(ids))]
    for name, about in described.items():
        rows = zip(extras, table.column(name).to_pylist(), about.shapes, strict=True)
        for extra, raw, shape in rows:
            values = np.frombuffer(raw, dtype=about.dtype).reshape(shape)
            extra[name] = torch.from_numpy(values.copy())
    return Pictured.of(ids, extras)
