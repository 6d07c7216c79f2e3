"""SLEB: the language-modelling loss without one unit."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fusegpt.importance.checks import finite
from fusegpt.importance.losses import losses_without
from fusegpt.importance.settings import Sleb
from fusegpt.importance.sums import Sums
from fusegpt.models.model import Model
from fusegpt.models.structure.kept_states import KeptStates
from fusegpt.units import Unit

__all__ = ["sleb"]


def sleb(
    model: Model,
    batches: Sequence[Tensor],
    units: Sequence[Unit],
    settings: Sleb = Sleb(),
    *,
    sums: Sums | None = None,
    kept_states: KeptStates | None = None,
) -> Tensor:
    """Score each unit by the model's loss without it.

    Mean cross-entropy of the next token over all sequences.
    Paper: SLEB, arXiv 2402.09025, Algorithm 1: removed greedily, first and last block stay; its
    own search set is 128 rows of text (decision D33).

    Args:
        model: The model as pruned so far, in eval mode. Unchanged on return.
        batches: Calibration token ids, each ``[batch, seq]`` int64, without padding.
        units: The units still present.
        settings: Not used; what they protect is not among ``units``.
        sums: Gets what each batch adds, for scores whose windows several jobs share.
        kept_states: Those of an earlier scoring to go on from; gets those of this one.

    Returns:
        ``[units]`` float64 on the CPU, nats per token.

    Raises:
        NumericsError: A loss is NaN or infinite. The message names the unit.
    """
    return finite("sleb", units, losses_without(model, batches, units, sums, kept_states))
