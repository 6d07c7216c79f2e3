"""Whether everything in a results directory still is what its records say."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fusegpt.artifacts import check_file, sha256
from fusegpt.errors import ArtifactError
from fusegpt.results import layout as at
from fusegpt.results.base import Record, read
from fusegpt.results.files import FileRecord, Parent, Source
from fusegpt.results.models import Evaluation, Table, read_checkpoint
from fusegpt.results.point import Place
from fusegpt.results.records import Scores, read_manifest

__all__ = ["verify"]

READERS: dict[at.Pattern, Callable[[Path], Record]] = {
    at.source: functools.partial(read, model=Source),
    at.dense_scores: functools.partial(read, model=Scores),
    at.scores: functools.partial(read, model=Scores),
    at.manifest: read_manifest,
    at.checkpoint: read_checkpoint,
    at.sliced: read_checkpoint,
    at.evaluation: functools.partial(read, model=Evaluation),
    at.table_record: functools.partial(read, model=Table),
}
"""Files that say what else must be true, in the order in which they come to be."""


def verify(results: Path) -> tuple[int, list[str]]:
    """Check every record: the files it lists, its parents, and what it was made from.

    Args:
        results: The folder ``results`` of a run.

    Returns:
        How many records were read, and one line for each thing that is wrong.

    Raises:
        ArtifactError: There is no record at all.
    """
    windows = {sha256(found.path) for found in at.windows.found_in(results)}
    files = [
        (found.path, reader)
        for pattern, reader in READERS.items()
        for found in pattern.found_in(results)
    ]
    if not files:
        raise ArtifactError(
            f"{results}: no results here; name the folder that holds runs/, models/"
        )
    return len(files), [line for file, reader in files for line in _record(file, reader, windows)]


def _record(file: Path, reader: Callable[[Path], Record], windows: set[str]) -> Iterator[str]:
    try:
        record = reader(file)
    except ArtifactError as error:
        yield str(error)
        return
    files: Mapping[str, FileRecord] = getattr(record, "files", {})
    for name, about in files.items():
        yield from _problem("", about.check, file.parent / name)
    parent: Parent | None = getattr(record, "parent", None)
    parents: list[Parent] = getattr(record, "parents", [])
    for one in [*([parent] if parent else []), *parents]:
        yield from _problem(f"{file}: its parent ", one.checked, file.parent)
    inputs: Mapping[str, str] = getattr(record, "inputs", {})
    for role, digest in inputs.items():
        yield from _input(file, role, digest, windows)


def _input(file: Path, role: str, digest: str, windows: set[str]) -> Iterator[str]:
    first = file.parent.with_name(Place.step(1).name)
    beside = {"scores": file.with_name(at.SCORES), "first_scores": first / at.SCORES}
    if role in beside:
        said = {"sha256": digest}
        yield from _problem(f"{file}: its {role} ", check_file, beside[role], said)
    elif digest not in windows:
        yield f"{file}: its {role} windows, {digest}, are nowhere in data/"


def _problem(prefix: str, check: Callable[..., object], *arguments: object) -> Iterator[str]:
    try:
        check(*arguments)
    except ArtifactError as error:
        yield f"{prefix}{error}"
