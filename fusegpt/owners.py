"""Who holds a lock: the record in its file, and whether that process still lives."""

from __future__ import annotations

import json
import os
import socket
import uuid
from pathlib import Path
from typing import Any

__all__ = ["is_gone", "me", "owner_of", "read_owner", "words"]


def me() -> dict[str, Any]:
    """This process, with a token that no other holder has."""
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "token": uuid.uuid4().hex,
    }


def is_gone(owner: dict[str, Any]) -> bool:
    """Whether the holder on record is certainly dead, provided the kernel's lock is free."""
    here = socket.gethostname(), _boot()
    if (owner.get("host"), owner.get("boot")) == here:
        return _started(int(owner["pid"])) != owner.get("started") or owner["pid"] == os.getpid()
    job = owner.get("slurm_job")  # a requeued job keeps its number
    return job is not None and job == os.environ.get("SLURM_JOB_ID")


def _boot() -> str:
    """An identifier of this start of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process of this machine started, in ticks; None if there is none, or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def read_owner(descriptor: int) -> dict[str, Any]:
    """The owner that a lock file names; nothing when it names none."""
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    known = isinstance(found, dict) and type(found.get("pid")) is int
    return found if known and isinstance(found.get("token"), str) else {}


def owner_of(path: Path) -> dict[str, Any]:
    """The owner on record at a path; nothing when none can be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return {}
    try:
        return read_owner(descriptor)
    finally:
        os.close(descriptor)


def words(owner: dict[str, Any]) -> str:
    """A holder as messages name it."""
    if not owner:
        return "another process"
    job = f" (slurm job {owner['slurm_job']})" if owner.get("slurm_job") else ""
    return f"process {owner.get('pid')} on {owner.get('host')}{job}"
