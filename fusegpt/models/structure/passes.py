"""Counting block forward passes, so that long work can say how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from fusegpt.models.model import Model
from fusegpt.pace import Pace

__all__ = ["counting_passes"]


@contextmanager
def counting_passes(model: Model, label: str, total: int | None) -> Iterator[Pace]:
    """Count each window that goes through each block inside.

    Args:
        model: Computes the same as before.
        label: What is done.
        total: Number of blocks times windows that will run; None: not known.
    """
    with Pace(label, total, "block forward pass") as pace:
        places = zip(model.kept, model.blocks, strict=True)
        handles = [block.register_forward_hook(_count(pace, index)) for index, block in places]
        try:
            yield pace
        finally:
            for handle in handles:
                handle.remove()


def _count(pace: Pace, index: int) -> Callable[[nn.Module, Any, Any], None]:
    def hook(block: nn.Module, args: Any, output: Any) -> None:
        states = output[0] if isinstance(output, (tuple, list)) else output
        pace.advance(len(states), f"at block {index}")

    return hook
