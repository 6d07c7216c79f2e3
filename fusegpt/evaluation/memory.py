"""Running out of memory, on any device."""

from __future__ import annotations

import torch

__all__ = ["out_of_memory"]


def out_of_memory(error: BaseException, device: torch.device) -> bool:
    """Whether memory ran out; if so, cached blocks of a GPU are given back."""
    cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if not (cpu or isinstance(error, torch.OutOfMemoryError)):
        return False
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return True
