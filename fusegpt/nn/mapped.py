"""A matrix followed by a trained low-rank map of its outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from fusegpt.nn.fused import FusedWeight, LowRank, wide

__all__ = ["MappedWeight"]


class MappedWeight(FusedWeight):
    """``W + L·R·W``: what ``W`` puts out is also mapped by ``L·R``; starts as ``W``.

    Args:
        base: ``[out, in]``, or ``[in, out]`` when ``transposed``; frozen, not copied.
        rank: Rank of the map ``[out, out]``.
        transposed: Whether the matrix has a column per output.
        generator: Seeds the Kaiming factor; on the CPU.
    """

    def __init__(
        self, base: Tensor, *, rank: int, transposed: bool, generator: torch.Generator
    ) -> None:
        rows = base.mT if transposed else base
        super().__init__(rows, update_rank=0, generator=generator)
        self.transposed = transposed
        shape = torch.Size((rows.shape[0], rows.shape[0]))
        update = LowRank(shape, rank, dtype=wide(rows[:0]).dtype, generator=generator)
        self.update = update.to(base.device)

    @torch.no_grad()
    def form(self) -> Tensor:
        """Return the mapped weight in float32 (float64 for a float64 base), shape as given."""
        assert self.update is not None
        rows = wide(self.base)
        formed = rows + self.update() @ rows
        weight: Tensor = formed.mT if self.transposed else formed
        return weight

    @torch.no_grad()
    def pull(self, grad: Tensor) -> None:
        """Set the factors' gradients from the gradient of the formed weight."""
        assert self.update is not None
        rows = wide(grad.mT if self.transposed else grad)
        self.update.pull(rows @ wide(self.base).mT)
