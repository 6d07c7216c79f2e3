"""How much memory there is to take, of a GPU or of this machine."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

from fusegpt.errors import ConfigError
from fusegpt.parallel import processes
from fusegpt.runtime import kernel_table

if TYPE_CHECKING:
    import torch

__all__ = ["free_bytes"]

CGROUPS = Path("/sys/fs/cgroup")
VERSION_1 = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)
VERSION_2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))
"""Files of a control group with its limit and what it holds, and rows of what it holds of files."""


def free_bytes(device: torch.device) -> int:
    """Return how much memory there is to take: of a GPU, or of this machine for this process.

    On the CPU the least of what the process's own limits (``ulimit -v``, ``ulimit -d``) leave, of
    its part of what is free and what its control groups leave, which processes that work together
    share alike, and of FUSEGPT_MEMORY_GIB for the whole process, without files that it has mapped.

    Raises:
        ConfigError: FUSEGPT_MEMORY_GIB is no positive number.
    """
    if device.type == "cuda":
        import torch

        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + cached)
    status = kernel_table("/proc/self/status")
    used = {resource.RLIMIT_DATA: "VmData", resource.RLIMIT_AS: "VmSize"}
    limits = {kind: resource.getrlimit(kind)[0] for kind in used}
    found = [
        limit - status.get(used[kind], 0)
        for kind, limit in limits.items()
        if limit != resource.RLIM_INFINITY
    ]
    machine = min(kernel_table("/proc/meminfo").get("MemAvailable", 2**63), _cgroup_free())
    found.append(machine // processes())
    if text := os.environ.get("FUSEGPT_MEMORY_GIB"):
        try:
            allowed = float(text)
        except ValueError:
            allowed = 0.0
        if not 0 < allowed < float("inf"):
            raise ConfigError(f"FUSEGPT_MEMORY_GIB: must be above 0, got {text!r}")
        own = status.get("VmRSS", 0) - status.get("RssFile", 0)
        found.append(int(allowed * 2**30) - own)
    return max(0, min(found))


def _cgroup_free() -> int:
    """What this process's control groups leave, all that it lies in; else more than there is.

    A container may show its own group as the root of a tree that names it by its place outside.
    """
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return 2**63
    found = [2**63]
    for _, kinds, place in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if kinds and "memory" not in kinds.split(","):
            continue
        root = CGROUPS / "memory" if kinds else CGROUPS
        inside = root / place.strip("/")
        names = VERSION_1 if kinds else VERSION_2
        found += [_left(folder, *names) for folder in [inside, *inside.parents][: _depth(place)]]
    return min(found)


def _depth(place: str) -> int:
    """How many groups there are from a place up to the root, both counted."""
    return 1 + len([part for part in place.split("/") if part])


def _left(folder: Path, most: str, used: str, cache: tuple[str, ...]) -> int:
    """What one group leaves; its cache of files gives way, memory that is shared does not."""
    try:
        limit, now = ((folder / name).read_text().strip() for name in (most, used))
        rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        cached = sum(int(rows[name]) for name in cache)
        return 2**63 if limit == "max" else int(limit) - int(now) + cached
    except (OSError, ValueError, KeyError):
        return 2**63
