"""Macro Influence: how far the last hidden states change direction when one unit is missing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fusegpt.importance.ablation import states_without
from fusegpt.importance.checks import finite
from fusegpt.importance.settings import MacroInfluence
from fusegpt.importance.sums import Sums
from fusegpt.models.model import Model
from fusegpt.models.structure.kept_states import KeptStates
from fusegpt.models.structure.visits import recordings
from fusegpt.units import Unit

__all__ = ["from_sums", "macro_influence"]


@torch.no_grad()
def macro_influence(
    model: Model,
    batches: Sequence[Tensor],
    units: Sequence[Unit],
    settings: MacroInfluence = MacroInfluence(),
    *,
    original: Model | None = None,
    sums: Sums | None = None,
    kept_states: KeptStates | None = None,
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
        sums: Gets what each batch adds, for scores whose windows several jobs share.
        kept_states: Those of an earlier scoring to go on from; gets those of this one.

    Returns:
        ``[units]`` float64 on the CPU, dimensionless, in [0, 2] up to rounding. 0: no effect.

    Raises:
        NumericsError: A hidden state is NaN or infinite. The message names the unit.
    """
    sums = Sums() if sums is None else sums
    sets = [[[unit] for unit in units]] * len(batches)
    ablations = states_without(model, batches, sets, kept_states)
    others = None if original is None else recordings(original, batches)
    for reference, states in ablations:
        if others is not None:
            reference = next(others).hidden_out
        found = []
        for hidden_states in states:
            similarity = functional.cosine_similarity(
                hidden_states.float(), reference.float(), dim=-1
            )  # [batch, seq]
            found.append(similarity.sum(dtype=torch.float64))
        sums.add(found, reference[..., 0].numel())
    return finite("macro_influence", units, from_sums(sums))


def from_sums(sums: Sums) -> Tensor:
    """Return the scores that sums of cosines over tokens make."""
    return 1 - sums.mean()
