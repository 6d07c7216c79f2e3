"""Which GPUs a job may use: its own, for as long as its process lives.

Snakemake's ``gpu=1`` limits how many jobs run, and says to none of them which device is its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fusegpt.errors import BusyError, ConfigError
from fusegpt.locks import try_lock

__all__ = ["candidates", "device_lock", "kind_and_count"]

logger = logging.getLogger(__name__)

JOB_NUMBERS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID")
"""Variables in which schedulers tell a job its number; devices are numbered within one job."""
POLL_SECONDS = 0.5


def candidates() -> list[str]:
    """Devices this process may choose from, as CUDA_VISIBLE_DEVICES names them.

    They are those that a scheduler gave to its job; without one, those in FUSEGPT_GPUS; without
    that, those in CUDA_VISIBLE_DEVICES; and else all.

    Raises:
        ConfigError: There is none.
    """
    visible, ours = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("FUSEGPT_GPUS")
    if ours is not None and (visible is None or _job() is None):
        origin, found = "FUSEGPT_GPUS", _split(ours)
    elif visible is not None:
        origin, found = "CUDA_VISIBLE_DEVICES", _split(visible)
    else:
        origin, found = "nvidia-smi", _installed()
    if not found or "-1" in found:
        raise ConfigError(f"device: no GPU may be used: {origin} names none; choose --device cpu")
    return found


@contextlib.contextmanager
def device_lock(
    name: str, count: int = 1, *, wait_seconds: float | None = None
) -> Iterator[str | None]:
    """Take GPUs for this process alone, and make them the only ones that CUDA sees.

    The lock is a file lock: the kernel frees it when the process dies, however it dies.

    Args:
        name: ``cuda`` locks free devices and waits if there are too few. ``cpu`` and ``cuda:N``
            lock nothing: the second names its device already.
        count: How many devices; either all of them are taken or none.
        wait_seconds: The timeout; None: wait until devices are free.

    Yields:
        The devices as CUDA_VISIBLE_DEVICES names them now; None if none was taken.

    Raises:
        ConfigError: There are not so many devices.
        BusyError: Too few were free for ``wait_seconds``.
    """
    if name != "cuda":
        yield None
        return
    taken = _take(candidates(), count, wait_seconds)
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
    logger.info("locked GPU %s", ", ".join(taken))
    try:
        yield ",".join(taken)
    finally:
        for descriptor in taken.values():
            os.close(descriptor)
        os.environ.pop("CUDA_VISIBLE_DEVICES")
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def kind_and_count(name: str) -> tuple[str, int]:
    """Return a device's name and for how many processes: ``cudax2`` is two GPUs, one for each.

    Raises:
        ConfigError: It asks for no process.
    """
    several = re.fullmatch(r"(cpu|cuda)x(\d{1,4})", name, re.ASCII)
    if several is None:
        return name, 1
    if int(several[2]) < 1:
        raise ConfigError(f"device: must have at least one process, got {name!r}")
    return several[1], int(several[2])


def _take(devices: list[str], count: int, wait_seconds: float | None) -> dict[str, int]:
    """Lock devices; their names, and the open files that hold the locks."""
    names = ", ".join(devices)
    if count > len(devices):
        raise ConfigError(f"device: must have {count} GPUs, has {len(devices)} ({names})")
    began, told = time.monotonic(), False
    while True:
        taken: dict[str, int] = {}
        for device in devices:
            descriptor = _locked(device) if len(taken) < count else None
            if descriptor is not None:
                taken[device] = descriptor
        if len(taken) == count:
            return taken
        for descriptor in taken.values():
            os.close(descriptor)
        busy = "every GPU is locked" if count == 1 else f"fewer than {count} GPUs are free"
        if wait_seconds is not None and time.monotonic() - began >= wait_seconds:
            raise BusyError(f"device: {busy} ({names}); try again later")
        if not told:
            logger.info("waiting: %s (%s)", busy, names)
            told = True
        time.sleep(POLL_SECONDS * random.uniform(0.5, 1.5))  # two may want the same two


def _locked(device: str) -> int | None:
    """The open file that locks a device; None: another process has it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(_lock_file(device), flags, 0o600)
    if try_lock(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def _lock_file(device: str) -> Path:
    """The lock file of a device: on this machine's own disk, per user and scheduler's job."""
    chosen = os.environ.get("FUSEGPT_LOCKS") or os.environ.get("FUSEGPT_LEASES")  # until 0.1
    folder = Path(chosen or Path(tempfile.gettempdir()) / f"fusegpt-{os.getuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not chosen and (folder.is_symlink() or folder.stat().st_uid != os.getuid()):
        raise ConfigError(
            f"{folder}: must be a directory of this user, as device locks lie in it; set"
            " FUSEGPT_LOCKS to another one"
        )
    safe = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in device)
    return folder / f"gpu-{_job() or 'host'}-{safe}.lock"


def _job() -> str | None:
    return next((os.environ[name] for name in JOB_NUMBERS if os.environ.get(name)), None)


def _split(names: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in names.split(",") if part.strip()))


def _installed() -> list[str]:
    """Numbers of the machine's GPUs, or names of the instances that one is cut into (MIG).

    CUDA is not asked, as it would then see them all for good.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    done = subprocess.run([program, "-L"], capture_output=True, text=True, check=False)
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        if whole := re.match(r"GPU (\d+):", line):
            found[whole[1]] = []
        elif found and (part := re.match(r"\s+MIG .*\(UUID: (MIG-[^)]+)\)", line)):
            found[list(found)[-1]].append(part[1])
    return [name for number, parts in found.items() for name in parts or [number]]
