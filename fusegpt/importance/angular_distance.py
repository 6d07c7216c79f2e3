"""Angular distance across a run of blocks, at the last token (UIDL)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fusegpt.importance.settings import AngularDistance
from fusegpt.importance.updates import mean_update
from fusegpt.models.model import Model
from fusegpt.units import Unit

__all__ = ["angular_distance"]


def angular_distance(
    model: Model,
    batches: Sequence[Tensor],
    units: Sequence[Unit],
    settings: AngularDistance = AngularDistance(),
    *,
    run: int = 1,
) -> Tensor:
    """Score each run of units by the angle between the states that enter and leave it.

    d(h_l, h_{l+n}) = mean over sequences of arccos(cos(h_l, h_{l+n})) / pi, at the last token.
    Paper: The Unreasonable Ineffectiveness of the Deeper Layers, arXiv 2403.17887, Eq. 7
    (decision D31).

    Args:
        model: The model as pruned so far, in eval mode. Unchanged on return.
        batches: Calibration token ids, each ``[batch, seq]`` int64, without padding.
        units: The units still present; neighbours when ``run`` is more than 1.
        settings: Not used; what they protect is not among ``units``.
        run: n, the units of a run; each run is scored at its first unit.

    Returns:
        ``[units - run + 1]`` float64 on the CPU, in [0, 1]: half turns.

    Raises:
        NumericsError: A hidden state is NaN or infinite. The message names the unit.
    """

    def angle(before: Tensor, after: Tensor) -> Tensor:
        # float64: near 1, a cosine's rounding is an angle's square root of it
        cosine = functional.cosine_similarity(before[:, -1].double(), after[:, -1].double(), dim=-1)
        return torch.arccos(cosine.clamp(-1, 1)) / math.pi  # [batch]

    return mean_update("angular_distance", model, batches, units, angle, run)
