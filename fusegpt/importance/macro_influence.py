"""Macro Influence: how far the last hidden states change direction when one unit is missing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fusegpt.importance.ablation import states_without
from fusegpt.importance.checks import finite
from fusegpt.importance.settings import MacroInfluence
from fusegpt.models.model import Model
from fusegpt.models.structure.visits import recordings
from fusegpt.units import Unit

__all__ = ["macro_influence"]


@torch.no_grad()
def macro_influence(
    model: Model,
    batches: Sequence[Tensor],
    units: Sequence[Unit],
    settings: MacroInfluence = MacroInfluence(),
    *,
    original: Model | None = None,
) -> Tensor:
    """Score each unit by what the model's last hidden states lose without it.

    MI_i = 1 - mean over tokens of cos(h, h_i): h leaves the last block, h_i does without unit i.
    Paper: Section III-B, Eq. 3 (decisions D1, D2, D3).

    Args:
        model: The model as pruned so far, in eval mode. Unchanged on return.
        batches: Calibration token ids, each ``[batch, seq]`` int64, without padding.
        units: The units still present.
        settings: Not used; ``reference`` is what decides about ``original``.
        original: The model whose states h are, in place of ``model``'s own.

    Returns:
        ``[units]`` float64 on the CPU, dimensionless, in [0, 2] up to rounding. 0: no effect.

    Raises:
        NumericsError: A hidden state is NaN or infinite. The message names the unit.
    """
    total = [torch.zeros((), dtype=torch.float64) for _ in units]
    tokens = 0
    ablations = states_without(model, batches, [[[unit] for unit in units]] * len(batches))
    others = None if original is None else recordings(original, batches)
    for reference, states in ablations:
        if others is not None:
            reference = next(others).hidden_out
        tokens += reference[..., 0].numel()
        for place, hidden_states in enumerate(states):
            similarity = functional.cosine_similarity(
                hidden_states.float(), reference.float(), dim=-1
            )  # [batch, seq]
            total[place] += similarity.sum(dtype=torch.float64).cpu()
    scores = torch.stack([1 - one / tokens for one in total])
    return finite("macro_influence", units, scores)
