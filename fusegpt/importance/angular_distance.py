"""Angular distance across a run of blocks, at the last token (UIDL)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fusegpt.importance.settings import AngularDistance
from fusegpt.importance.sums import Sums
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
    sums: Sums | None = None,
) -> Tensor:
    """Score each run of units by the angle between the states that enter and leave it.

    d(h_l, h_{l+n}) = mean over sequences of arccos(cos(h_l, h_{l+n})) / pi, at the last token.
    Paper: The Unreasonable Ineffectiveness of the Deeper Layers, arXiv 2403.17887, Eq. 7
    (decision D31). In pairs, each unit is scored across the block before it and itself, which is
    how CoMe, arXiv 2510.15304, chooses what it merges (decision D53).

    Args:
        model: The model as pruned so far, in eval mode. Unchanged on return.
        batches: Calibration token ids, each ``[batch, seq]`` int64, without padding.
        units: The units still present; neighbours when ``run`` is more than 1.
        settings: Whether in pairs; what they protect is not among ``units``.
        run: n, the units of a run; each run is scored at its first unit.
        sums: Gets what each batch adds, for scores whose windows several jobs share; not used in
            pairs.

    Returns:
        ``[units - run + 1]`` float64 on the CPU, in [0, 1]: half turns. In pairs, 1 more where one
        of both took a block in already, and 2 for the first block, which has none before it.

    Raises:
        NumericsError: A hidden state is NaN or infinite. The message names the unit.
    """

    def angle(before: Tensor, after: Tensor) -> Tensor:
        # float64: near 1, a cosine's rounding is an angle's square root of it
        cosine = functional.cosine_similarity(before[:, -1].double(), after[:, -1].double(), dim=-1)
        return torch.arccos(cosine.clamp(-1, 1)) / math.pi  # [batch]

    if not settings.pairs:
        return mean_update("angular_distance", model, batches, units, angle, run, sums=sums)
    places = [model.position(unit.index) for unit in units]
    spanned = [Unit("block", i) for i in model.kept[max(places[0] - 1, 0) : places[-1] + 1]]
    scores = torch.full((len(units),), 2.0, dtype=torch.float64)
    if len(spanned) > 1:
        across = mean_update("angular_distance", model, batches, spanned, angle, 2)
        for number, place in enumerate(places):
            if place > 0:
                pair = model.kept[place - 1 : place + 1]
                found = across[place - max(places[0], 1)]
                scores[number] = found + any(_took_in(model, index) for index in pair)
    return scores


def _took_in(model: Model, index: int) -> bool:
    """Whether the block behind a remaining one was removed, and so merged into it."""
    return index + 1 < model.num_blocks and index + 1 not in model.kept
