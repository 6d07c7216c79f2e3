"""Which GPU a process may use: one each, for as long as the process lives.

Snakemake's ``gpu=1`` limits how many jobs run, and says to none of them which device is its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fusegpt.errors import BusyError, ConfigError
from fusegpt.locks import try_lock

__all__ = ["candidates", "device_lock"]

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
def device_lock(name: str, *, wait_seconds: float | None = None) -> Iterator[str | None]:
    """Take one GPU for this process alone, and make it the only one that CUDA sees.

    The lock is a file lock: the kernel frees it when the process dies, however it dies.

    Args:
        name: ``cuda`` locks a free device and waits if there is none. ``cpu`` and ``cuda:N``
            lock nothing: the second names its device already.
        wait_seconds: The timeout; None: wait until a device is free.

    Yields:
        The device as CUDA_VISIBLE_DEVICES names it now; None if none was taken.

    Raises:
        ConfigError: There is no device at all.
        BusyError: All are taken, and were for ``wait_seconds``.
    """
    if name != "cuda":
        yield None
        return
    device, descriptor = _take(candidates(), wait_seconds)
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = device
    logger.info("locked GPU %s", device)
    try:
        yield device
    finally:
        os.close(descriptor)
        os.environ.pop("CUDA_VISIBLE_DEVICES")
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def _take(devices: list[str], wait_seconds: float | None) -> tuple[str, int]:
    began, told = time.monotonic(), False
    while True:
        for device in devices:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(_lock_file(device), flags, 0o600)
            if try_lock(descriptor):
                return device, descriptor
            os.close(descriptor)
        names = ", ".join(devices)
        if wait_seconds is not None and time.monotonic() - began >= wait_seconds:
            raise BusyError(f"device: every GPU is locked ({names}); try again later")
        if not told:
            logger.info("waiting for a GPU: every one is locked (%s)", names)
            told = True
        time.sleep(POLL_SECONDS)


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
    """Numbers of the machine's GPUs; CUDA is not asked, as it would then see them all for good."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return _split(done.stdout.replace("\n", ",")) if done.returncode == 0 else []
