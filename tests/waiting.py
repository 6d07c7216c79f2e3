"""Waiting for what another process or thread does; a test that hangs ends with a reason."""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS = 240
"""More than any of them takes on a loaded machine."""


def wait_until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Return when the condition holds, which may read files that come and go."""
    until = time.monotonic() + seconds
    while not _holds(condition):
        assert time.monotonic() < until, f"{condition} did not hold for {seconds} s"
        time.sleep(0.05)


def _holds(condition: Callable[[], object]) -> bool:
    try:
        return bool(condition())
    except FileNotFoundError:
        return False
