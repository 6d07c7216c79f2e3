"""Weighted sum: neighbours become weighted means of their weights and the removed unit's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fusegpt.models.model import Model
from fusegpt.recovery.group import group_of, run_of
from fusegpt.recovery.merging import merge
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings.merges import WeightedSum
from fusegpt.units import Unit

__all__ = ["weighted_sum"]


def weighted_sum(
    model: Model,
    unit: Unit | Sequence[Unit],
    windows: Tensor | None = None,
    settings: WeightedSum = WeightedSum(),
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> RecoveryReport:
    """Remove a unit and average it into its neighbours: nothing is trained.

    W' = (1 - w)·W + w·W_p, where W_p of a run of blocks is the mean of theirs. It is fusion (Eq. 5)
    with one constant in place of each matrix of coefficients (decision D51).

    Args:
        model: Loses the unit, or run of blocks; its neighbours change.
        unit: Still present.
        windows: Not used.
        settings: The weight, and how many neighbours take the unit up.
        seed: Not used; nothing is drawn.
        checkpoint: Not used; there is nothing to resume.
    """
    run = run_of(model, unit, "weighted_sum")

    def combine(name: str, own: Tensor, removed: list[Tensor]) -> Tensor:
        return own.lerp(torch.stack(removed).mean(0), settings.weight)

    return merge(model, run, group_of(model, run, settings.group_size), combine)
