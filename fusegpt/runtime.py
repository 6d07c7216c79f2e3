"""The machine a run meets: logging, seeds, device, dtype, threads, time, memory."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fusegpt.errors import ConfigError
from fusegpt.registry import suggestion

if TYPE_CHECKING:
    import torch

__all__ = [
    "Timer",
    "allow_remote_code",
    "device",
    "dtype_name",
    "generator",
    "kernel_table",
    "machine_peak_gib",
    "peak_memory_gib",
    "quiet",
    "remote_code_is_allowed",
    "reset_peak_memory",
    "set_up_logging",
    "slow_here",
    "times_slower",
    "torch_dtype",
]

_remote_code = False
DTYPES = ("float32", "bfloat16", "float16", "float64")
SLOW = 2.0
"""From so many times as long as float32 on, a type is told to be slow."""


def set_up_logging(verbosity: int = 0) -> None:
    """Send our log lines to stderr; only the command line calls this.

    Args:
        verbosity: -1 for warnings only, 0 for one line per event, 1 for details.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    level = {-1: logging.WARNING, 0: logging.INFO}.get(verbosity, logging.DEBUG)
    logging.getLogger("fusegpt").setLevel(level)


def seed_of(*parts: object) -> int:
    """A 63-bit seed from what it is for; the same on every machine and in any order of use."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*parts: object) -> torch.Generator:
    """A CPU random generator that depends on nothing but ``parts``, e.g. ``(seed, "lora", 3)``."""
    import torch

    return torch.Generator().manual_seed(seed_of(*parts))


def device(name: str) -> torch.device:
    """Check a device's name: ``cpu``, ``cuda`` or ``cuda:N``.

    With ``FUSEGPT_TF32=1`` products of float32 matrices on a GPU keep 10 bits of each factor.

    Raises:
        ConfigError: No such device on this machine; there is no silent way back to the CPU.
    """
    import torch

    kind, _, number = name.partition(":")
    if name != "cpu" and (kind != "cuda" or not (number.isdecimal() or name == "cuda")):
        raise ConfigError(f"device: must be cpu, cuda or cuda:N, got {name!r}")
    count = torch.cuda.device_count() if kind == "cuda" else 0
    if kind == "cuda" and int(number or 0) >= count:
        raise ConfigError(f"device: {name!r} is not there; {count} CUDA devices are visible")
    rounded = os.environ.get("FUSEGPT_TF32", "0")
    if rounded not in ("0", "1"):
        raise ConfigError(f"FUSEGPT_TF32: must be 0 or 1, got {rounded!r}")
    torch.set_float32_matmul_precision("high" if rounded == "1" else "highest")
    return torch.device(name)


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of a name.

    Raises:
        ConfigError: The name is not a floating dtype used here.
    """
    import torch

    if name not in DTYPES:
        raise ConfigError(f"unknown dtype {name!r}{suggestion(name, DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def dtype_name(dtype: str | torch.dtype) -> str:
    """Name of a dtype, given as such or by name, as settings and records spell it: ``float32``."""
    return str(dtype).removeprefix("torch.")


@functools.cache
def times_slower(dtype: str) -> float:
    """How many times as long as in float32 this CPU takes to multiply in a type; tried once.

    Names of instruction sets do not tell: PyTorch computes in software where a library lacks a
    kernel. Nor do small products, which an instruction set for large ones does not speed up.
    These take milliseconds, also where they are slow.
    """
    return _product_seconds(dtype) / _product_seconds("float32")


def slow_here(dtype: str, device: str) -> str | None:
    """Say in a line what would be quicker; None: the type is, or the work is not on the CPU."""
    if dtype not in ("bfloat16", "float16") or not device.startswith("cpu"):
        return None
    times = times_slower(dtype)
    if times < SLOW:
        return None
    return (
        f"dtype {dtype}: this CPU computes it in software, {times:.0f} times as long as float32;"
        " dtype: float32 is quicker here and changes results by rounding"
    )


def _product_seconds(name: str) -> float:
    """The quickest of a few products of two matrices."""
    import torch

    matrix = torch.ones(512, 512, dtype=torch_dtype(name))
    found = []
    for _ in range(3):
        begun = time.perf_counter()
        matrix @ matrix
        found.append(time.perf_counter() - begun)
    return min(found)


def allow_remote_code(allowed: bool) -> None:
    """Let models bring code of their own; the command line calls this, nothing else does."""
    global _remote_code
    _remote_code = allowed


def remote_code_is_allowed() -> bool:
    """Whether the user allowed it, in the model's entry or on the command line."""
    return _remote_code


def peak_memory_gib() -> float:
    """The most memory this process has held: of the GPU if it used one, else of the machine.

    What counts is the time since its start, or since ``reset_peak_memory``.
    """
    held = [sys.modules["torch"].cuda.max_memory_allocated(number) for number in _started_gpus()]
    return float(max(held) / 2**30) if any(held) else machine_peak_gib()


def machine_peak_gib() -> float:
    """The most of the machine's memory that this process has held, since as ``peak_memory_gib``.

    ``getrusage`` counts what the process that started this one held, too, and is the last resort.
    """
    if most := kernel_table("/proc/self/status").get("VmHWM"):
        return most / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, but bytes on macOS
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def kernel_table(file: str) -> dict[str, int]:
    """The bytes in a file of lines like ``VmData:  1024 kB``; nothing where there is none."""
    try:
        lines = Path(file).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    parts = [line.replace(":", " ").split() for line in lines]
    return {part[0]: int(part[1]) * 1024 for part in parts if part[2:] == ["kB"]}


def reset_peak_memory() -> bool:
    """Let the peak count from now on.

    Returns:
        Whether that worked; only Linux forgets the peak of the machine's memory.
    """
    for number in _started_gpus():
        sys.modules["torch"].cuda.reset_peak_memory_stats(number)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _started_gpus() -> range:
    """Numbers of the GPUs, once this process has used one; it begins to use none by asking."""
    torch = sys.modules.get("torch")
    started = torch is not None and torch.cuda.is_initialized()
    return range(sys.modules["torch"].cuda.device_count() if started else 0)


@contextmanager
def quiet() -> Iterator[None]:
    """Only errors of transformers are heard inside; the former settings come back afterwards."""
    from transformers.utils import logging as remarks

    verbosity, bars = remarks.get_verbosity(), remarks.is_progress_bar_enabled()
    remarks.set_verbosity_error()
    remarks.disable_progress_bar()
    try:
        yield
    finally:
        remarks.set_verbosity(verbosity)
        if bars:
            remarks.enable_progress_bar()


class Timer:
    """``with Timer() as timer: ...``; ``timer.seconds`` counts while inside, then stands still.

    Args:
        device: The device whose queued work is waited for, on entry and on leaving; ``None``: none.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device
        self._end: float | None = None

    def __enter__(self) -> Timer:
        self._start = self._now()
        return self

    def __exit__(self, *raised: object) -> None:
        self._end = self._now()

    def _now(self) -> float:
        if self._device is not None and self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall-clock seconds since the block was entered, until it was left."""
        return (self._end if self._end is not None else time.perf_counter()) - self._start
