"""LLM-BIP: how much the output of its block loses when a unit is missing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fusegpt.importance.settings import LlmBip
from fusegpt.importance.sums import Sums
from fusegpt.importance.updates import mean_update, relative_change
from fusegpt.models.model import Model
from fusegpt.models.structure.branches import bypass
from fusegpt.models.structure.calls import Call
from fusegpt.units import Unit

__all__ = ["llm_bip"]


def llm_bip(
    model: Model,
    batches: Sequence[Tensor],
    units: Sequence[Unit],
    settings: LlmBip = LlmBip(),
    *,
    sums: Sums | None = None,
) -> Tensor:
    """Score each unit by how far its block's output moves without it, relative to that output.

    Mean over tokens of ||B(x) - B'(x)||_2 / ||B(x)||_2: B is the block, B' the block without the
    unit; without the whole block, B'(x) = x.
    Paper: LLM-BIP, arXiv 2412.06419, block-wise importance (decision D52).

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

    def loss(without: Tensor, whole: Tensor) -> Tensor:
        return relative_change(whole, without, 2)

    return mean_update("llm_bip", model, batches, units, loss, sublayer=_without, sums=sums)


@torch.no_grad()
def _without(
    model: Model, unit: Unit, call: Call, entering: Tensor, leaving: Tensor
) -> tuple[Tensor, Tensor]:
    """What leaves the block without an attention or an mlp, whose other part then reads on."""
    with bypass(model, [unit]):
        return call.run(model.block(unit.index), entering), leaving
