"""Documents in local files: parquet, jsonl or plain text."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from fusegpt.errors import DataError, first_line

__all__ = ["read_documents"]

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
    path = Path(path)
    readers = {".parquet": _parquet, ".jsonl": _json_lines, ".gz": _json_lines, ".txt": _plain}
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


def _json_lines(path: Path) -> Iterator[str]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as stream:
        for line in stream:
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise DataError(f"{path}: must hold one object a line, got {line.strip()[:40]}")
                yield _text(path, row[_column(path, list(row))])


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
        f"{path}: must have a column {' or '.join(map(repr, COLUMNS))}, has {', '.join(names)}"
    )
