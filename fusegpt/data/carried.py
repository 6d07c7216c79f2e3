"""Token ids that carry something for each of their windows, wherever windows go."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

__all__ = ["Carried"]


class Carried(torch.Tensor):
    """Token ids ``[sequences, length]`` and something for each sequence.

    Slices of sequences and ``split`` keep what is carried; any other operation gives plain ids.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def plain(self) -> Tensor:
        """Return the ids alone."""
        return self.as_subclass(torch.Tensor)

    def inputs(self) -> dict[str, Tensor]:
        """Return the arguments of the forward pass."""
        return {"input_ids": self.plain()}

    def part(self, sequences: slice) -> Self:
        """Return some of the sequences, with what they carry."""
        raise NotImplementedError

    def __getitem__(self, key: Any) -> Tensor:
        return self.part(key) if isinstance(key, slice) else self.plain()[key]

    def split(self, size: Any, dim: int = 0) -> tuple[Tensor, ...]:
        """Return pieces of ``size`` sequences, with what they carry."""
        if dim or not isinstance(size, int):
            parts: tuple[Tensor, ...] = self.plain().split(size, dim)
            return parts
        return tuple(self[start : start + size] for start in range(0, len(self), size))
