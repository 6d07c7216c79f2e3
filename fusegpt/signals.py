"""SIGTERM and SIGHUP: a tuning saves its position first, then the process leaves in one line."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from fusegpt.errors import Stopped

__all__ = ["RELAYED", "asked_to_stop", "relayed", "saving_first", "stoppable"]

SIGNALS = (signal.SIGTERM, signal.SIGHUP)
RELAYED = {signal.SIGTERM: signal.SIGUSR1, signal.SIGHUP: signal.SIGUSR2}
"""How whoever started several processes passes a signal on: a batch system, or a terminal, may have
sent it to each of them already, and a second one does not wait for anything."""

_asked: int | None = None
_saves = False


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise ``Stopped`` inside, so that files are tidied up on the way out.

    Outside the main thread, where Python allows no handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        if before[number] is not signal.SIG_IGN:  # nohup
            signal.signal(number, _on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def relayed() -> None:
    """Let this process hear of signals only through the one that started it."""
    for number, other in RELAYED.items():
        signal.signal(number, signal.SIG_IGN)
        signal.signal(other, _on_relayed)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def saving_first() -> Iterator[None]:
    """Let the first signal inside wait for ``asked_to_stop``; the second one does not wait."""
    global _asked, _saves
    _saves, waiting = True, None
    try:
        yield
    finally:
        _saves, waiting, _asked = False, _asked, None
    if waiting is not None:
        raise Stopped(waiting)


def asked_to_stop() -> int | None:
    """Return the signal that came and waits for a position to be saved; None: none did."""
    return _asked


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _asked
    if _saves and _asked is None:
        _asked = number
        return
    raise Stopped(number)


def _on_relayed(number: int, frame: FrameType | None) -> None:
    _on_signal(next(heard for heard, other in RELAYED.items() if other == number), frame)
