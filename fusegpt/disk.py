"""Room on the disk for files that are mapped into memory: taken before anything is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fusegpt.errors import ArtifactError, reason_of

__all__ = ["room_for", "take_room"]


def take_room(descriptor: int, size: int) -> None:
    """Take ``size`` bytes of an open file; without them a full disk would be a SIGBUS later."""
    os.posix_fallocate(descriptor, 0, size)


@contextmanager
def room_for(amount: str, folder: Path, advice: str = "") -> Iterator[None]:
    """Inside, a file system that refuses is said in one line.

    Args:
        amount: How much of what is to lie there.
        folder: Where.
        advice: What can be done about it.

    Raises:
        ArtifactError: It refused.
    """
    try:
        yield
    except OSError as error:
        ways = f"; {advice}" if advice else ""
        raise ArtifactError(
            f"{folder}: must have room for {amount} ({reason_of(error)}){ways}"
        ) from None
