"""Blocks that keep no states for the way back and compute them again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from fusegpt.models.model import Model

__all__ = ["checkpointed"]


@contextmanager
def checkpointed(model: Model, wanted: bool = True) -> Iterator[None]:
    """Inside, each block keeps only what enters it; gradients are the same to the last bit."""
    listed = model.block_list._modules
    real = dict(listed)
    if wanted:
        listed.update({name: _Again(block) for name, block in real.items() if block is not None})
    try:
        yield
    finally:
        listed.update(real)


class _Again(nn.Module):
    """Stands where a block stands and runs it, twice when gradients are wanted."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.__dict__["block"] = block  # not a child: its parameters keep their names

    def __getattr__(self, name: str) -> Any:
        """Parents ask their blocks for attention types and the like."""
        return getattr(self.__dict__["block"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return checkpoint(self.__dict__["block"], *args, use_reentrant=False, **kwargs)
