"""One writer for each output: an orphan and its successor never write the same files.

The kernel's lock (``flock``) decides between processes of one machine and is freed when its
holder dies, however it dies. File systems shared by machines do not all keep such locks, so the
lock file also says who holds it and is touched while its holder lives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fusegpt.errors import ArtifactError, BusyError, reason_of
from fusegpt.owners import is_gone, me, owner_of, read_owner, words

__all__ = ["holder", "lock_path", "open_plain", "sole_writer", "try_lock"]

logger = logging.getLogger(__name__)

UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
HEARTBEAT_SECONDS = 20.0
SILENT_SECONDS = 120.0
"""A holder on another machine whose lock file is untouched for so long is dead."""
POLL_SECONDS = 0.5
TAKE_OVER_SECONDS = 1.0
"""How long a lock taken from a silent holder must stay ours before it is accepted."""
REMIND_SECONDS = 300.0
LOOKS = 3
"""How often another owner must be read before a holder gives up its lock."""
LOOK_SECONDS = 1.0


def lock_path(output: str | Path) -> Path:
    """Where the lock of an output lies: beside it, so that the output itself may be replaced."""
    output = Path(output)
    return output.with_name(f".{output.name}.lock")


def try_lock(descriptor: int) -> bool | None:
    """Take the kernel's lock on an open file; None where the file system has no such locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return None
    return True


def holder(output: str | Path) -> str | None:
    """Who writes ``output`` now, in words; None if nobody does, as far as can be told."""
    path = lock_path(output)
    try:
        descriptor = open_plain(path)
    except (OSError, ArtifactError):
        return None
    try:
        owner = read_owner(descriptor)
        if try_lock(descriptor) is False:
            return words(owner)
        silent = time.time() - os.fstat(descriptor).st_mtime > SILENT_SECONDS
        return None if is_gone(owner) or silent else words(owner)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def sole_writer(
    output: str | Path, *, job: str = "", wait_seconds: float | None = None
) -> Iterator[str | None]:
    """Hold the lock of an output; wait for whoever holds it now.

    Args:
        output: A file or directory that is going to be written.
        job: Text that names everything the output depends on.
        wait_seconds: The timeout; None: wait as long as the holder lives.

    Yields:
        What ``job`` the one waited for was doing; None when there was nobody.

    Raises:
        BusyError: Somebody else writes it and went on for ``wait_seconds``.
        ArtifactError: The lock file cannot be written.
    """
    path = lock_path(output)
    record = me() | {"job": job}
    descriptor, waited_for = _acquire(path, record, wait_seconds)
    held = [descriptor]
    stop = threading.Event()
    threading.Thread(target=_beat, args=(path, held, record, stop), daemon=True).start()
    try:
        yield waited_for
    finally:
        stop.set()
        if owner_of(path).get("token") == record["token"] or _is_still(path, held[-1]):
            path.unlink(missing_ok=True)
        for each in held:
            os.close(each)


def _acquire(
    path: Path, record: dict[str, Any], wait_seconds: float | None
) -> tuple[int, str | None]:
    """Open and lock the file, wait if need be; the descriptor, and the job waited for."""
    began = reminded = time.monotonic()
    watch = _Watch()
    waited_for: str | None = None
    while True:
        descriptor, owner = _try_once(path, record, watch)
        if descriptor is not None:
            return descriptor, waited_for
        now = time.monotonic()
        if wait_seconds is not None and now - began >= wait_seconds:
            raise BusyError(f"{path}: {words(owner)} writes this output; try again when it ended")
        if waited_for is None or now - reminded >= REMIND_SECONDS:
            reminded = now
            logger.info("%s: waiting for %s, which writes this output", path, words(owner))
        waited_for = str(owner.get("job", "")) or waited_for or ""
        time.sleep(POLL_SECONDS)


def _try_once(
    path: Path, record: dict[str, Any], watch: _Watch
) -> tuple[int | None, dict[str, Any]]:
    """One attempt: the descriptor if the lock is ours now, and the record of the owner if not."""
    descriptor, new = _open(path)
    keep = False
    try:
        owner = {} if new else read_owner(descriptor)
        locked = try_lock(descriptor)
        if not _is_still(path, descriptor):
            return None, owner  # its holder has just ended and removed it
        takes_over = not new and not is_gone(owner)
        waits = takes_over and bool(owner) and not watch.is_silent(descriptor)
        if locked is False or waits:
            return None, owner
        _write(path, descriptor, record)
        if takes_over:  # another machine may be doing the same; the last to write has it
            time.sleep(TAKE_OVER_SECONDS)
            if owner_of(path).get("token") != record["token"]:
                return None, owner
        keep = True
        return descriptor, owner
    finally:
        if not keep:
            os.close(descriptor)


class _Watch:
    """Tells how long a lock file has not been touched, by this machine's clock alone."""

    def __init__(self) -> None:
        self.seen: tuple[int, int] | None = None
        self.since = time.monotonic()

    def is_silent(self, descriptor: int) -> bool:
        status = os.fstat(descriptor)
        if (status.st_ino, status.st_mtime_ns) != self.seen:
            self.seen, self.since = (status.st_ino, status.st_mtime_ns), time.monotonic()
        return time.monotonic() - self.since >= SILENT_SECONDS


def _beat(path: Path, held: list[int], record: dict[str, Any], stop: threading.Event) -> None:
    """Touch the lock file while its holder lives; leave if another owner is read in it.

    A file that cannot be read for a moment says nothing; one that is gone is made again.
    """
    looks = 0
    while not stop.wait(LOOK_SECONDS if looks else HEARTBEAT_SECONDS):
        owner = owner_of(path)
        looks = looks + 1 if owner and owner["token"] != record["token"] else 0
        if looks >= LOOKS and not stop.is_set():
            logger.error("%s: %s took this lock; leaving", path, words(owner))
            os._exit(BusyError.exit_code)
        with contextlib.suppress(OSError):
            if not owner and not os.path.lexists(path) and not stop.is_set():
                _restore(path, held, record)
            os.utime(held[-1])


def _restore(path: Path, held: list[int], record: dict[str, Any]) -> None:
    """Make a lock file that somebody removed again, unless a successor was faster."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try_lock(descriptor)
    os.pwrite(descriptor, json.dumps(record).encode(), 0)
    held.append(descriptor)


def _open(path: Path) -> tuple[int, bool]:
    """Open the lock file, making it if it is not there; and whether it was made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                return open_plain(path), False


def open_plain(path: Path) -> int:
    """Open a lock file for reading and writing; no link is followed and no pipe waited for.

    Raises:
        ArtifactError: It is no plain file, has another name as well, or holds what is no lock.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = "is a link" if path.is_symlink() else reason_of(error)
        raise ArtifactError(f"{path}: must be a lock file of ours, {reason}; remove it") from None
    status = os.fstat(descriptor)
    plain = stat.S_ISREG(status.st_mode) and status.st_nlink <= 1
    if not plain or (status.st_size and os.pread(descriptor, 1, 0) != b"{"):
        os.close(descriptor)
        raise ArtifactError(f"{path}: must be a lock file of ours, is something else; move it away")
    return descriptor


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _write(path: Path, descriptor: int, record: dict[str, Any]) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(record).encode(), 0)
        os.fsync(descriptor)
    except OSError as error:
        path.unlink(missing_ok=True)
        reason = reason_of(error)
        raise ArtifactError(f"{path}: cannot be written: {reason}") from error
