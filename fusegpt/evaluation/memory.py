"""Running out of memory, on any device."""

from __future__ import annotations

import torch

__all__ = ["give_back", "out_of_memory"]


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out."""
    cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return cpu or isinstance(error, torch.OutOfMemoryError)


def give_back(device: torch.device) -> None:
    """Give a GPU's cached memory back; to be called outside of ``except``.

    As long as an error is handled, its traceback holds every tensor of what failed.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
