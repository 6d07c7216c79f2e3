"""Files that are whole or absent: atomic writes and checksums."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import hashlib
import json
import logging
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fusegpt.errors import ArtifactError, reason_of

__all__ = [
    "STAGE_VERSION",
    "atomic_directory",
    "atomic_path",
    "check_file",
    "check_free",
    "check_size",
    "file_record",
    "read_json",
    "sha256",
    "write_json",
]

logger = logging.getLogger(__name__)

STAGE_VERSION: dict[str, int] = {
    "fetch": 1,
    "sample": 1,
    "generate": 2,
    "start": 1,
    "score": 1,
    "fuse": 1,
    "merge": 1,
    "answers": 1,
    "finish": 1,
    "slice": 1,
    "export": 1,
    "card": 8,
    "evaluate": 3,
    "table": 8,
    "figure": 6,
    "report": 10,
}
"""Raise a verb's number when its *results* change: the workflow then reruns it and what follows."""


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Write a file beside its place; it appears under its name complete or not at all.

    A file that is there already with the same bytes stays, with its time.

    Yields:
        The name to write to, ``<name>.tmp-<uuid>`` in the same folder, which is made if needed.

    Raises:
        ArtifactError: The disk is full. Nothing is left behind, and an older file stays as it was.
    """
    target = Path(path)
    partial = target.with_name(f"{target.name}.tmp-{uuid.uuid4().hex}")
    try:
        with _full_disk_in_words(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            _follow_umask(partial)
            if _is_same(partial, target):
                return
            _sync(partial)
            os.replace(partial, target)
            _sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: str | Path, *, last: str | None = None) -> Iterator[Path]:
    """Write a directory beside its place; it appears under its name complete or not at all.

    Args:
        path: The place, which must not exist, be empty, or hold nothing but what an interrupted
            earlier write left: no file ``last``, and no name that this write does not have too.
        last: The file whose presence means "complete"; needed to recognise such leftovers.

    Yields:
        The directory to write into.

    Raises:
        ArtifactError: Something else lies there (nothing is touched), or the disk is full. What
            came there during the work costs no work: the message names where the result is.
    """
    target = Path(path)
    _refuse_foreign(target, last, None)
    partial = target.with_name(f"{target.name}.tmp-{uuid.uuid4().hex}")
    try:
        with _full_disk_in_words(target):
            partial.mkdir(parents=True)
            yield partial
            for file in sorted(partial.rglob("*")):
                _follow_umask(file)
                _sync(file)
            with _kept_if_refused(partial, target):
                _refuse_foreign(target, last, {file.name for file in partial.iterdir()})
                _move_into_place(partial, target, last)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as JSON, atomically, keys in the order they come."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path, *, ours: bool = False) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        ours: Written by ``write_json``: without NaN, infinities and halves of characters.

    Raises:
        ArtifactError: The file is missing or is not JSON.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        value = json.loads(text, parse_constant=_refuse if ours else None)
        if ours and "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {reason_of(error)}") from None
    except RecursionError:
        raise ArtifactError(f"{path}: must not be nested so deeply; delete it, run again") from None
    except ValueError as error:
        raise ArtifactError(f"{path}: not valid JSON: {error}; delete it and run again") from None


def sha256(path: str | Path) -> str:
    """The checksum of a file, in hex.

    Raises:
        ArtifactError: The file cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {reason_of(error)}") from None


def file_record(path: str | Path) -> dict[str, Any]:
    """What a manifest says about a file: ``{"sha256", "bytes"}``."""
    return {"sha256": sha256(path), "bytes": os.path.getsize(path)}


def check_file(path: str | Path, record: Mapping[str, Any]) -> None:
    """Compare a file with what a manifest says about it (``bytes`` may be absent).

    Raises:
        ArtifactError: The file is missing, or its size or checksum differs.
    """
    check_size(path, record)
    digest = sha256(path)
    if digest != record["sha256"]:
        raise ArtifactError(f"{path}: checksum must be {record['sha256']}, got {digest}")


def check_size(path: str | Path, record: Mapping[str, Any]) -> None:
    """Compare the size of a file with what a manifest says about it, without reading the file.

    Raises:
        ArtifactError: The file is missing, or its size differs.
    """
    if not Path(path).is_file():
        raise ArtifactError(f"{path}: missing, though its manifest lists it")
    size = os.path.getsize(path)
    if size != record.get("bytes", size):
        raise ArtifactError(f"{path}: must have {record['bytes']} bytes, got {size}")


def check_free(directory: str | Path) -> None:
    """Check that a directory may be written: it does not exist, or is empty.

    Raises:
        ArtifactError: Something lies there.
    """
    path = Path(directory)
    if path.exists() and any(path.iterdir()):
        raise ArtifactError(f"{path}: must not exist or be empty; choose another output")


@contextlib.contextmanager
def _full_disk_in_words(target: Path) -> Iterator[None]:
    """Say "disk full" in one line; libraries that write in Rust or C++ only have it in the text."""
    try:
        yield
    except Exception as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left on device" in str(error):
            raise ArtifactError(
                f"{target}: no space left on the disk; free some, run again"
            ) from error
        raise


@contextlib.contextmanager
def _kept_if_refused(partial: Path, target: Path) -> Iterator[None]:
    """Keep finished work under a name of its own when its place cannot be had."""
    try:
        yield
    except (ArtifactError, OSError) as error:
        kept = target.with_name(f"{target.name}.kept-{uuid.uuid4().hex}")
        reason = str(error) if isinstance(error, ArtifactError) else f"{target}: {reason_of(error)}"
        os.rename(partial, kept)
        raise ArtifactError(f"{reason}; what was made is in {kept}") from error


def _refuse_foreign(target: Path, last: str | None, names: set[str] | None) -> None:
    """Refuse a target with contents that are not leftovers of the same, interrupted, write."""
    if target.exists() and not target.is_dir():
        raise ArtifactError(f"{target}: must be a directory, is a file")
    present = {entry.name for entry in target.iterdir()} if target.is_dir() else set()
    if not present:
        return
    if last is None or last in present:
        raise ArtifactError(f"{target}: must not exist or be empty; choose another output")
    foreign = sorted(present - names) if names is not None else []
    if foreign:
        raise ArtifactError(
            f"{target}: holds {foreign[0]!r}, which is not part of this output; remove it first"
        )


def _move_into_place(partial: Path, target: Path, last: str | None) -> None:
    if not target.is_dir() or not any(target.iterdir()):
        os.replace(partial, target)
        _sync(target.parent)
        return
    for file in sorted(partial.iterdir(), key=lambda file: (file.name == last, file.name)):
        old = target / file.name
        if old.is_dir():
            shutil.rmtree(old)
        os.replace(file, old)
    _sync(target)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _is_same(partial: Path, target: Path) -> bool:
    """Whether a file has the same bytes and mode as the one in its place."""
    if target.is_symlink() or not target.is_file():
        return False
    same_mode = stat.S_IMODE(partial.stat().st_mode) == stat.S_IMODE(target.stat().st_mode)
    return same_mode and filecmp.cmp(partial, target, shallow=False)


def _follow_umask(path: Path) -> None:
    """Let others read what the umask lets them; libraries write files for their owner alone."""
    status = path.lstat()
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:  # a link shares its file's mode
        mask = os.umask(0o077)
        os.umask(mask)
        path.chmod(stat.S_IMODE(status.st_mode) | (0o666 & ~mask))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
