"""Perplexity without one unit (Shortened LLaMA)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fusegpt.importance.checks import finite
from fusegpt.importance.losses import losses_without
from fusegpt.importance.settings import Perplexity
from fusegpt.importance.sums import Sums
from fusegpt.models.model import Model
from fusegpt.models.structure.kept_states import KeptStates
from fusegpt.units import Unit

__all__ = ["from_sums", "perplexity"]


def perplexity(
    model: Model,
    batches: Sequence[Tensor],
    units: Sequence[Unit],
    settings: Perplexity = Perplexity(),
    *,
    sums: Sums | None = None,
    kept_states: KeptStates | None = None,
) -> Tensor:
    """Score each unit by the model's perplexity without it.

    exp of the mean cross-entropy of the next token over all sequences.
    Paper: Shortened LLaMA, arXiv 2402.02834, Section 3.1: scored once; with "+" the first four
    and last two blocks stay (decision D34).

    Args:
        model: The model as pruned so far, in eval mode. Unchanged on return.
        batches: Calibration token ids, each ``[batch, seq]`` int64, without padding.
        units: The units still present.
        settings: Not used; what they protect is not among ``units``.
        sums: Gets what each batch adds, for scores whose windows several jobs share.
        kept_states: Those of an earlier scoring to go on from; gets those of this one.

    Returns:
        ``[units]`` float64 on the CPU, at least 1.

    Raises:
        NumericsError: A perplexity is NaN or infinite. The message names the unit.
    """
    sums = Sums() if sums is None else sums
    losses_without(model, batches, units, sums, kept_states)
    return finite("perplexity", units, from_sums(sums))


def from_sums(sums: Sums) -> Tensor:
    """Return the perplexities that sums of losses make."""
    return sums.mean().exp()
