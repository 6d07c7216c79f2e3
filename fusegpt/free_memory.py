"""How much memory there is to take, of a GPU or of this machine."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

from fusegpt.errors import ConfigError

if TYPE_CHECKING:
    import torch

__all__ = ["free_bytes"]


def free_bytes(device: torch.device) -> int:
    """Return how much memory there is to take: of a GPU, or of this machine for this process.

    On the CPU the least of what is free, what the process's own limits (``ulimit -v``, ``ulimit
    -d``) and its control group leave, and FUSEGPT_MEMORY_GIB for the whole process.

    Raises:
        ConfigError: FUSEGPT_MEMORY_GIB is no positive number.
    """
    if device.type == "cuda":
        import torch

        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + cached)
    status = _table("/proc/self/status")
    used = {resource.RLIMIT_DATA: "VmData", resource.RLIMIT_AS: "VmSize"}
    limits = {kind: resource.getrlimit(kind)[0] for kind in used}
    found = [
        limit - status.get(used[kind], 0)
        for kind, limit in limits.items()
        if limit != resource.RLIM_INFINITY
    ]
    found += [_table("/proc/meminfo").get("MemAvailable", 2**63), _cgroup_free()]
    if text := os.environ.get("FUSEGPT_MEMORY_GIB"):
        try:
            allowed = float(text)
        except ValueError:
            allowed = 0.0
        if not 0 < allowed < float("inf"):
            raise ConfigError(f"FUSEGPT_MEMORY_GIB: must be above 0, got {text!r}")
        found.append(int(allowed * 2**30) - status.get("VmRSS", 0))
    return max(0, min(found))


def _table(file: str) -> dict[str, int]:
    """The bytes in a file of lines like ``VmData:  1024 kB``; nothing where there is none."""
    try:
        lines = Path(file).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    parts = [line.replace(":", " ").split() for line in lines]
    return {part[0]: int(part[1]) * 1024 for part in parts if part[2:] == ["kB"]}


def _cgroup_free() -> int:
    """What a control group leaves; without a limit, more than there is."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text().strip()
        now = int((folder / "memory.current").read_text())
        lines = (folder / "memory.stat").read_text().splitlines()
        cached = next(int(line.split()[1]) for line in lines if line.startswith("file "))
        return 2**63 if limit == "max" else int(limit) - now + cached
    except (OSError, ValueError, StopIteration):
        return 2**63
