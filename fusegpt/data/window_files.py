"""Files of windows: token ids as parquet, with their pictures where they have some."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fusegpt.artifacts import atomic_path
from fusegpt.data.carried import Carried
from fusegpt.data.directories import text_config
from fusegpt.data.masked import Masked
from fusegpt.data.pictured import Pictured
from fusegpt.data.tokens import fingerprint, load_tokenizer
from fusegpt.data.windows import COLUMN, META_KEY, check_content, content_digest, read_meta
from fusegpt.errors import ArtifactError, DataError, first_line
from fusegpt.results import digests
from fusegpt.results.files import ExtraColumn
from fusegpt.results.history import dense_directory

__all__ = [
    "ANSWERS",
    "MASK",
    "check_ids",
    "check_kind",
    "directory_for",
    "read_windows",
    "windows_for",
    "write_windows",
]

logger = logging.getLogger(__name__)

MASK, ANSWERS = "mask", "answers"
"""Columns of windows that end in padding, or of which only some predictions count."""


def write_windows(path: Path, windows: np.ndarray | Tensor, meta: Mapping[str, Any]) -> None:
    """Write windows as parquet, in one piece.

    Args:
        path: The file.
        windows: Token ids ``[sequences, length]``, with what they carry.
        meta: What the file says of itself: corpus, split, sequences, length, seed, ...
    """
    pictured = isinstance(windows, Pictured)
    ids = np.asarray(windows.plain() if isinstance(windows, Carried) else windows, dtype=np.int32)
    columns = {"input_ids": pa.array(list(ids), type=pa.list_(pa.int32()))}
    described = dict(meta)
    if isinstance(windows, Pictured):
        extras, described["extras"] = _extras(windows)
        columns |= extras
    if isinstance(windows, Masked):
        masks = {MASK: windows.mask(), ANSWERS: windows.answers}
        columns |= {name: _flags(mask) for name, mask in masks.items() if mask is not None}
    table = pa.table(columns)
    described[digests.KEY] = content_digest(table, described)
    table = table.replace_schema_metadata({META_KEY: json.dumps(described).encode()})
    with atomic_path(Path(path)) as partial:
        pq.write_table(table, partial, compression="snappy" if pictured else "zstd")


def read_windows(path: Path) -> Tensor:
    """Read a file of ``write_windows``.

    Returns:
        ``[sequences, length]`` int64 on the CPU; with their pictures or masks, where the file has
        some.

    Raises:
        ArtifactError: Missing, corrupt, no windows file, or rows of different lengths.
    """
    meta = read_meta(path)
    check_content(path)
    try:
        column = pq.read_table(path, columns=[COLUMN]).column(COLUMN).combine_chunks()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ArtifactError(f"{path}: not a readable windows file ({first_line(error)})") from error
    check_kind(column.type, path)
    if column.null_count or column.flatten().null_count:
        raise ArtifactError(f"{path}: {COLUMN} must hold a token id in every place, got nulls")
    lengths = set(column.value_lengths().to_pylist())
    if len(lengths) != 1 or lengths == {0}:
        raise ArtifactError(
            f"{path}: windows must have one length of at least one token, got {sorted(lengths)}"
        )
    flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    ids = torch.from_numpy(flat.reshape(len(column), lengths.pop()))
    ids = _with_masks(path, ids)
    return ids if meta.extras is None else _with_pictures(path, ids, meta.extras)


def windows_for(model: Path, path: Path) -> Tensor:
    """Read windows that a model is to run on, and check that they are made for it.

    Args:
        model: Its directory, or the manifest of a step.
        path: The file of windows; one that something else than ``fusegpt sample`` wrote needs a
            column ``input_ids``.

    Returns:
        As ``read_windows`` does.

    Raises:
        ArtifactError: The file is missing, corrupt, or holds no windows.
        DataError: They are tokens of another tokenizer, or ids or lengths that the model has not.
    """
    ids, directory = read_windows(path), directory_for(model, path)
    if (directory / "config.json").is_file():
        check_ids(directory, ids, str(path))
    return ids


def directory_for(model: Path, path: Path) -> Path:
    """Return where a model's configuration lies, once windows are known to be made for it.

    Args:
        model: Its directory, or the manifest of a step.
        path: The file of windows.

    Raises:
        DataError: They are tokens of another tokenizer.
    """
    directory = dense_directory(Path(model))
    unchecked = _check_tokenizer(path, directory)
    if unchecked is not None:
        logger.info("%s: whether the tokens are the model's was not checked: %s", path, unchecked)
    return directory


def check_ids(directory: Path, ids: Tensor, where: str) -> None:
    """Refuse token ids that a model has no embedding for, and windows beyond its positions.

    Args:
        directory: The model's.
        ids: ``[sequences, length]``.
        where: Begins the message.

    Raises:
        ArtifactError: The configuration cannot be read.
        DataError: There is one.
    """
    config = text_config(directory)
    rows, longest = (
        getattr(config, name, None) for name in ("vocab_size", "max_position_embeddings")
    )
    least, most = int(ids.min()), int(ids.max())
    pictured = isinstance(ids, Pictured)  # the ids of pictures may lie beyond the vocabulary
    if least < 0 or (isinstance(rows, int) and most >= rows and not pictured):
        raise DataError(
            f"{where}: token ids must be from 0 to {rows and rows - 1}, the model's embeddings, got"
            f" {least if least < 0 else most}; resize the embeddings, or take another tokenizer"
        )
    if isinstance(longest, int) and ids.shape[1] > longest:
        raise DataError(
            f"{where}: windows must be at most {longest} tokens long, the model's positions, got"
            f" {ids.shape[1]}; sample shorter ones"
        )


def check_kind(kind: pa.DataType, path: Path) -> None:
    """Refuse a column of tokens that holds no lists of whole numbers."""
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not listed or not pa.types.is_integer(kind.value_type):
        raise ArtifactError(f"{path}: {COLUMN} must be lists of whole numbers, got {kind}")


def _check_tokenizer(path: Path, directory: Path) -> str | None:
    """Refuse tokens of another tokenizer; return why that cannot be known, if so."""
    digest = read_meta(path).tokenizer_sha256
    if digest is None:
        return "the file does not name their tokenizer"
    try:
        tokenizer = load_tokenizer(directory)
    except ArtifactError as error:
        return first_line(error)
    if fingerprint(tokenizer) != digest:
        raise DataError(
            f"{path}: tokens of another tokenizer than that of {directory}; sample them again, or"
            " take a teacher that has theirs"
        )
    return None


def _extras(windows: Pictured) -> tuple[dict[str, pa.Array], dict[str, Any]]:
    """A column of bytes for each kind of extra tensor, and how to read it back."""
    columns, described = {}, {}
    for name, first in windows.extras[0].items():
        shapes = [list(extra[name].shape) for extra in windows.extras]
        described[name] = {"dtype": str(first.numpy().dtype), "shapes": shapes}
        columns[name] = pa.array([extra[name].numpy().tobytes() for extra in windows.extras])
    return columns, described


def _flags(mask: Tensor) -> pa.Array:
    return pa.array(list(mask.numpy()), type=pa.list_(pa.bool_()))


def _with_masks(path: Path, ids: Tensor) -> Tensor:
    """Put ids and the masks of their file together, if it has any."""
    names = [name for name in (MASK, ANSWERS) if name in pq.read_schema(path).names]
    if not names:
        return ids
    table, found = pq.read_table(path, columns=names), {}
    for name in names:
        column = table.column(name).combine_chunks()
        flat = column.flatten() if column.type == pa.list_(pa.bool_()) else pa.array([])
        if len(flat) != ids.numel() or flat.null_count:
            raise ArtifactError(f"{path}: {name} must hold true or false for every token id")
        values = flat.to_numpy(zero_copy_only=False).astype(bool)
        found[name] = torch.from_numpy(values.reshape(ids.shape))
    mask = found.get(MASK, torch.ones(ids.shape, dtype=torch.bool))
    masked = Masked.of(ids, mask.sum(dim=1).tolist(), found.get(ANSWERS))
    if not torch.equal(masked.mask(), mask):
        raise ArtifactError(f"{path}: {MASK} must be false behind a window's tokens alone")
    masked.check(str(path))
    return masked


def _with_pictures(path: Path, ids: Tensor, described: Mapping[str, ExtraColumn]) -> Pictured:
    table = pq.read_table(path, columns=list(described))
    extras: list[dict[str, Tensor]] = [{} for _ in range(len(ids))]
    for name, about in described.items():
        rows = zip(extras, table.column(name).to_pylist(), about.shapes, strict=True)
        for extra, raw, shape in rows:
            values = np.frombuffer(raw, dtype=about.dtype).reshape(shape)
            extra[name] = torch.from_numpy(values.copy())
    return Pictured.of(ids, extras)
