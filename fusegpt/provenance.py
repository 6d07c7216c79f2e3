"""Who made a result: code, libraries, interpreter, platform and device."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import fusegpt

__all__ = ["provenance"]

logger = logging.getLogger(__name__)

LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "pyarrow",
    "lm_eval",
    "scipy",
)


def provenance(device: object = "cpu") -> dict[str, Any]:
    """Who made a result: code, libraries, interpreter, platform, device."""
    return {
        "fusegpt": fusegpt.__version__,
        "commit": _commit(),
        "libraries": {name: version for name in LIBRARIES if (version := _version(name))},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": _device_name(str(device)),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _commit() -> str | None:
    """The commit of the clone this package runs from (``-dirty``: with changes), if it is one."""
    clone = Path(__file__).resolve().parent.parent
    if not (clone / ".git").exists() or shutil.which("git") is None:
        return None
    head = _git(clone, "rev-parse", "--verify", "HEAD")
    if "safe.directory" in head.stderr:
        logger.warning(
            "%s: belongs to another user, so git names no commit and records go without; allow it"
            " with git config --global --add safe.directory %s",
            *(clone, clone),
        )
    if head.returncode:
        return None
    changed = _git(clone, "status", "--porcelain", "--untracked-files=no").stdout.strip()
    return head.stdout.strip() + ("-dirty" if changed else "")


def _git(clone: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Ask git without a change to the clone's index and without a program that its config names."""
    options = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(clone))
    return subprocess.run(["git", *options, *words], capture_output=True, text=True, check=False)


def _device_name(device: str) -> str:
    if device.startswith("cuda") and "torch" in sys.modules:
        return f"{device} ({sys.modules['torch'].cuda.get_device_name(device)})"
    return device
