"""Whether everything in a results directory still is what its records say."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fusegpt.artifacts import check_file, read_json, sha256
from fusegpt.errors import ArtifactError

__all__ = ["RECORDS", "verify"]

RECORDS = (
    "models/*/source.json",
    "scores/*/*.json",
    "runs/*/*/step-*/scores.json",
    "runs/*/*/step-*/manifest.json",
    "checkpoints/*/*/step-*/fusegpt.json",
    "slices/*/*/sparsity-*/fusegpt.json",
    "evaluations/*/*/step-*/*.json",
    "evaluations/*/*/sparsity-*/*.json",
    "tables/*.json",
)
"""Files that say what else must be true; the order in which they come to be."""


def verify(results: Path) -> tuple[int, list[str]]:
    """Check every record: the files it lists, its parents, and what it was made from.

    Args:
        results: The folder ``results`` of a run.

    Returns:
        How many records were read, and one line for each thing that is wrong.

    Raises:
        ArtifactError: There is no record at all.
    """
    problems: list[str] = []
    windows = {
        sha256(file): file for file in sorted(results.glob("data/*/*.parquet")) if file.is_file()
    }
    files = [file for pattern in RECORDS for file in sorted(results.glob(pattern))]
    if not files:
        raise ArtifactError(
            f"{results}: no results here; name the folder that holds runs/, models/"
        )
    for file in files:
        problems += _record(file, windows)
    return len(files), problems


def _record(file: Path, windows: Mapping[str, Path]) -> Iterator[str]:
    try:
        notes = read_json(file)
    except ArtifactError as error:
        yield str(error)
        return
    if not isinstance(notes, dict):
        yield f"{file}: must hold a JSON object"
        return
    try:
        yield from _contents(file, notes, windows)
    except (KeyError, TypeError, AttributeError) as error:
        yield f"{file}: not a record: {type(error).__name__}: {error}"


def _contents(file: Path, notes: Mapping[str, Any], windows: Mapping[str, Path]) -> Iterator[str]:
    for name, record in (notes.get("files") or {}).items():
        yield from _problem(file.parent / name, record)
    parents = [notes["parent"]] if notes.get("parent") else []
    for parent in [*parents, *notes.get("parents", [])]:
        place = Path(os.path.normpath(file.parent / parent["path"]))
        yield from _problem(place, {"sha256": parent["sha256"]}, f"{file}: its parent ")
    for role, digest in (notes.get("inputs") or {}).items():
        yield from _input(file, role, digest, windows)


def _input(file: Path, role: str, digest: str, windows: Mapping[str, Path]) -> Iterator[str]:
    beside = {
        "scores": file.parent / "scores.json",
        "first_scores": file.parent.parent / "step-001" / "scores.json",
    }
    if role in beside:
        yield from _problem(beside[role], {"sha256": digest}, f"{file}: its {role} ")
    elif digest not in windows:
        yield f"{file}: its {role} windows, {digest}, are nowhere in data/"


def _problem(file: Path, record: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    try:
        check_file(file, record)
    except ArtifactError as error:
        yield f"{prefix}{error}"
