"""Last blocks: the highest unit goes first; no data is looked at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fusegpt.importance.settings import LastBlocks
from fusegpt.models.model import Model
from fusegpt.units import Unit

__all__ = ["last_blocks"]


def last_blocks(
    model: Model,
    batches: Sequence[Tensor],
    units: Sequence[Unit],
    settings: LastBlocks = LastBlocks(),
    *,
    run: int = 1,
) -> Tensor:
    """Score each unit by how deep it is not: the lowest blocks are kept.

    Minus the index; an mlp stands half a block above its attention.
    Paper: Why Lift so Heavy?, arXiv 2402.11700.

    Args:
        model: Not used.
        batches: Not used.
        units: The units still present.
        settings: Not used.
        run: Score runs of so many units, each at its first unit.

    Returns:
        ``[units - run + 1]`` float64 on the CPU, 0 or less.
    """
    first = units[: len(units) - run + 1]
    heights = [unit.index + (0.5 if unit.kind == "mlp" else 0.0) for unit in first]
    return -torch.tensor(heights, dtype=torch.float64)
