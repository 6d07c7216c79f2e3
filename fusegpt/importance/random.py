"""Random: a seeded order, the baseline that every metric has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fusegpt.importance.settings import Random
from fusegpt.models.model import Model
from fusegpt.runtime import generator
from fusegpt.units import Unit

__all__ = ["random"]


def random(
    model: Model,
    batches: Sequence[Tensor],
    units: Sequence[Unit],
    settings: Random = Random(),
    *,
    seed: int,
) -> Tensor:
    """Score each unit by a number drawn for it; the same whichever others are present.

    Args:
        model: Not used.
        batches: Not used.
        units: The units still present.
        settings: Not used.
        seed: Seed of the draw.

    Returns:
        ``[units]`` float64 on the CPU, uniform in [0, 1).
    """
    draws = [
        torch.rand((), dtype=torch.float64, generator=generator(seed, "random", str(unit)))
        for unit in units
    ]
    return torch.stack(draws)
