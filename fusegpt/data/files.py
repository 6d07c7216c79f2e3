"""Rows and documents of local files: parquet, jsonl or plain text."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fusegpt.errors import DataError, first_line

__all__ = ["SUFFIXES", "columns_of", "read_documents", "read_rows"]

Row = TypeVar("Row")

COLUMNS = ("text", "page")


def read_documents(path: Path, limit: int | None = None) -> list[str]:
    """Read the documents of a file.

    Args:
        path: ``.parquet`` (column ``text`` or ``page``), ``.jsonl`` or ``.json.gz`` (key ``text``
            or ``page``, one object a line) or ``.txt`` (one document).
        limit: Read the first ``limit`` documents only.

    Raises:
        DataError: Missing, unreadable, of another kind, without such a column, or with fewer
            documents than ``limit``.
    """
    return _read(Path(path), READERS, limit)


def read_rows(path: Path, limit: int | None = None) -> list[tuple[str, dict[str, Any]]]:
    """Read the rows of a parquet, jsonl or ``.json.gz`` file, each with its place for messages.

    Raises:
        DataError: Missing, unreadable, of another kind, or with fewer rows than ``limit``.
    """
    readers = {".parquet": _parquet_rows, ".jsonl": _objects, ".gz": _objects}
    return _read(Path(path), readers, limit)


def columns_of(path: Path) -> list[str]:
    """Return the columns of a parquet file, or the keys of a jsonl file's first object.

    Nothing more than that is read. Empty for plain text, and for what cannot be read: whoever
    reads the file says why.
    """
    import pyarrow.parquet as pq

    path = Path(path)
    try:
        if path.suffix == ".parquet":
            return list(pq.read_schema(path).names)
        if path.suffix in (".jsonl", ".gz"):
            return list(next(_objects(path), ("", {}))[1])
    except (OSError, ValueError, EOFError, DataError):
        pass
    return []


def _read(
    path: Path, readers: Mapping[str, Callable[[Path], Iterator[Row]]], limit: int | None
) -> list[Row]:
    """All rows that the reader of a file's suffix yields, or the first ones."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix not in readers:
        raise DataError(f"{path}: must be one of {', '.join(readers)}, got {path.suffix!r}")
    try:
        rows = list(itertools.islice(readers[path.suffix](path), limit))
    except (OSError, ValueError, EOFError) as error:  # pyarrow's and json's errors are ValueErrors
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from error
    if limit is not None and len(rows) < limit:
        raise DataError(f"{path}: {limit} documents asked, {len(rows)} there; lower documents")
    return rows


def _parquet(path: Path) -> Iterator[str]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        column = _column(path, file.schema_arrow.names)
        for batch in file.iter_batches(columns=[column]):
            yield from (_text(path, text) for text in batch.column(0).to_pylist())


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        number = 0
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", row


def _json_lines(path: Path) -> Iterator[str]:
    for _, row in _objects(path):
        yield _text(path, row[_column(path, list(row))])


def _objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file that has one a line, with their places."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                where = f"{path}: line {number}"
                yield where, _object(line.strip(), where)


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        fault = f"; {error.msg} at character {error.pos + 1}"
    else:
        if isinstance(row, dict):
            return row
        fault = ""
    raise DataError(f"{where}: must be one JSON object, got {line[:40]}{fault}")


def _plain(path: Path) -> Iterator[str]:
    yield path.read_text(encoding="utf-8")


def _text(path: Path, value: object) -> str:
    """One document; a missing one is empty."""
    if not isinstance(value, str | None):
        raise DataError(f"{path}: texts must be strings, got {str(value)[:40]!r}")
    return value or ""


def _column(path: Path, names: list[str]) -> str:
    for name in COLUMNS:
        if name in names:
            return name
    raise DataError(
        f"{path}: must have a column {' or '.join(map(repr, COLUMNS))}, has {', '.join(names)};"
        " conversations (messages; prompt and completion; conversations; instruction and output)"
        " are read by `fusegpt sample`, whose windows stand for the corpus everywhere"
    )


READERS = {".parquet": _parquet, ".jsonl": _json_lines, ".gz": _json_lines, ".txt": _plain}
SUFFIXES = tuple(READERS)
"""Kinds of files that a corpus may lie in; ``.gz`` is ``.jsonl``, packed."""
