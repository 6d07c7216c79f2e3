"""Relative L1: how large a unit's update is beside what it is added to."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import Tensor

from fusegpt.importance.settings import RelativeL1
from fusegpt.importance.sums import Sums
from fusegpt.importance.updates import mean_update, relative_change
from fusegpt.models.model import Model
from fusegpt.units import Unit

__all__ = ["relative_l1"]


def relative_l1(
    model: Model,
    batches: Sequence[Tensor],
    units: Sequence[Unit],
    settings: RelativeL1 = RelativeL1(),
    *,
    sums: Sums | None = None,
) -> Tensor:
    """Score each unit by the sum of absolute values of its update, relative to its input's.

    Mean over tokens of ||h_{i+1} - h_i||_1 / ||h_i||_1.
    Paper: A deeper look at depth pruning of LLMs, arXiv 2407.16286 (decision D32).

    Args:
        model: The model as pruned so far, in eval mode. Unchanged on return.
        batches: Calibration token ids, each ``[batch, seq]`` int64, without padding.
        units: The units still present.
        settings: Not used; what they protect is not among ``units``.
        sums: Gets what each batch adds, for scores whose windows several jobs share.

    Returns:
        ``[units]`` float64 on the CPU, dimensionless, 0 or more.

    Raises:
        NumericsError: A hidden state is NaN or infinite. The message names the unit.
    """
    size = functools.partial(relative_change, order=1)
    return mean_update("relative_l1", model, batches, units, size, sums=sums)
