"""How far a long job is: a bar on a terminal, a line of the log at least every minute elsewhere."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

__all__ = ["EVERY", "SAYS", "Pace", "heartbeat", "in_words", "under_way"]

logger = logging.getLogger(__name__)

EVERY = 60.0
"""Seconds between two lines."""
SAYS = "under way: "
"""What such a line begins with; ``fusegpt watch`` looks for it."""

_at_work: list[Pace] = []


class Pace:
    """Work that is done in parts: ``with Pace("scoring", 30, "block") as pace: pace.advance()``.

    Args:
        label: What is done.
        total: Number of parts; None: not known.
        unit: What a part is.
        done: Parts that were done before.
        clock: Tells the seconds.
    """

    def __init__(
        self,
        label: str,
        total: int | None = None,
        unit: str = "part",
        *,
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self._began_with, self._clock, self._note = done, clock, ""

    def __enter__(self) -> Pace:
        self._start = self._clock()
        whole = {"total": self.total, "initial": self.done, "unit": self.unit}
        self._bar = tqdm(desc=self.label, disable=None, leave=False, **whole)
        _at_work.append(self)
        return self

    def __exit__(self, *raised: object) -> None:
        _at_work.remove(self)
        self._bar.close()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Say that ``count`` more parts are done; ``note``: where that is, or what came out."""
        self.done += count
        self._note = note
        if not self._bar.disable:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)

    def __str__(self) -> str:
        seconds, here = self._clock() - self._start, self.done - self._began_with
        of = "" if self.total is None else f"/{self.total:,}"
        parts = [f"{self.label}: {self.unit} {self.done:,}{of}"]
        parts += [self._note] if self._note else []
        if not here or seconds <= 0:
            parts.append(f"{in_words(seconds)} so far")
        else:
            each = seconds / here
            parts.append(f"{each:.3g} s each" if each >= 1 else f"{1 / each:.3g} a second")
            if self.total is not None:
                parts.append(f"about {in_words((self.total - self.done) * each)} left")
        return ", ".join(parts)


def under_way() -> list[str]:
    """Return what is being done now, in words, the whole before its parts."""
    return [str(pace) for pace in list(_at_work)]


@contextlib.contextmanager
def heartbeat(name: str, every: float | None = None) -> Iterator[None]:
    """Let the log say every minute how far the work inside is; on a terminal the bars do.

    Args:
        name: What the work is called while none of its parts are counted.
        every: Seconds between two lines; None: ``EVERY``.
    """
    if sys.stderr.isatty():
        yield
        return
    began, over = time.monotonic(), threading.Event()

    def speak() -> None:
        while not over.wait(EVERY if every is None else every):
            so_far = f"{name}: {in_words(time.monotonic() - began)} so far"
            logger.info("%s%s", SAYS, "; ".join(under_way()) or so_far)

    thread = threading.Thread(target=speak, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def in_words(seconds: float) -> str:
    """Write a duration as ``45 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
