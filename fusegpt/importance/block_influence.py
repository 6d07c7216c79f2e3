"""Block Influence: how far one block changes the direction of the hidden states (ShortGPT)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from fusegpt.importance.settings import BlockInfluence
from fusegpt.importance.sums import Sums
from fusegpt.importance.updates import mean_update
from fusegpt.models.model import Model
from fusegpt.units import Unit

__all__ = ["block_influence"]


def block_influence(
    model: Model,
    batches: Sequence[Tensor],
    units: Sequence[Unit],
    settings: BlockInfluence = BlockInfluence(),
    *,
    run: int = 1,
    sums: Sums | None = None,
) -> Tensor:
    """Score each unit by the angle between the states that enter and leave it.

    BI_i = 1 - mean over tokens of cos(h_i, h_{i+1}).
    Paper: ShortGPT, arXiv 2403.03853, Eq. 1. Over a run of blocks it is what LLM-Streamline and
    ReplaceMe choose their cut by.

    Args:
        model: The model as pruned so far, in eval mode. Unchanged on return.
        batches: Calibration token ids, each ``[batch, seq]`` int64, without padding.
        units: The units still present; neighbours when ``run`` is more than 1.
        settings: Not used; what they protect is not among ``units``.
        run: Score runs of so many units, each at its first unit.
        sums: Gets what each batch adds, for scores whose windows several jobs share.

    Returns:
        ``[units - run + 1]`` float64 on the CPU, dimensionless, in [0, 2] up to rounding.

    Raises:
        NumericsError: A hidden state is NaN or infinite. The message names the unit.
    """

    def change(before: Tensor, after: Tensor) -> Tensor:
        return 1 - functional.cosine_similarity(before.float(), after.float(), dim=-1)

    return mean_update("block_influence", model, batches, units, change, run, sums=sums)
