"""What a file says of itself: a digest, which tells whether it still is what was written.

Records carry it as their last key, texts for people as a comment in their last line. Files that
were written before version 0.2 have none and are taken as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusegpt.artifacts import read_json
from fusegpt.errors import ArtifactError

__all__ = [
    "KEY",
    "append_digest",
    "check_text",
    "digest_of",
    "has_digest",
    "read_whole",
    "with_digest",
    "without_digest",
]

KEY = "digest"
LINE = re.compile(rb"\n?<!-- sha256 of what stands above: ([0-9a-f]{64}) -->\n\Z")


def digest_of(value: Any) -> str:
    """Return the sha256 of a JSON value, in hex; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def with_digest(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with the digest of all its keys as the last one."""
    return {**value, KEY: digest_of(value)}


def read_whole(path: str | Path) -> Any:
    """Read a JSON file, and compare it with its digest, which is left out.

    Raises:
        ArtifactError: The file is missing, no JSON, or not what was written.
    """
    value = read_json(path, ours=True)
    if not isinstance(value, dict) or KEY not in value:
        return value
    said = value.pop(KEY)
    if said != digest_of(value):
        raise ArtifactError(
            f"{path}: must be what was written, its digest says that it is not; delete it and run"
            f" again, or take out its {KEY!r} if you changed it on purpose"
        )
    return value


def has_digest(path: str | Path) -> bool:
    """Return whether a JSON file carries a digest; nothing is compared."""
    value = read_json(path)
    return isinstance(value, dict) and KEY in value


def append_digest(path: Path) -> None:
    """Add a comment with a text's digest as its last line; HTML, SVG and Markdown have one form."""
    text = path.read_bytes()
    line = f"\n<!-- sha256 of what stands above: {hashlib.sha256(text).hexdigest()} -->\n"
    path.write_bytes(text + line.encode())


def check_text(path: Path) -> bool:
    """Compare a text with the digest in its last line.

    Returns:
        Whether it has one.

    Raises:
        ArtifactError: It cannot be read, or is not what was written.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from None
    found = LINE.search(content)
    if found is None:
        return False
    if hashlib.sha256(content[: found.start()]).hexdigest() != found[1].decode():
        raise ArtifactError(
            f"{path}: must be what was written, its last line says that it is not; delete it and"
            " run again"
        )
    return True


def without_digest(text: str) -> str:
    """Return a text without the line that has its digest."""
    return LINE.sub(b"", text.encode()).decode()
