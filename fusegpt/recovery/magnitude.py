"""Rescaling at the gap: hidden states keep the size that the removed block gave them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fusegpt.data.masked import mask_of, tokens_in
from fusegpt.models.flops import forward_flops
from fusegpt.models.model import Model
from fusegpt.models.structure.replay import record
from fusegpt.models.structure.residual import check_head, rescaled_projections
from fusegpt.recovery.closed_form import BATCH, accept, fold, moments, split_holdout
from fusegpt.recovery.gap import find_gap
from fusegpt.recovery.group import run_of
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings.maps import Magnitude
from fusegpt.recovery.suits import first_that_works, folds_before
from fusegpt.units import Unit

__all__ = ["growth", "hadamard", "magnitude", "suits"]


def magnitude(
    model: Model,
    unit: Unit | Sequence[Unit],
    windows: Tensor,
    settings: Magnitude = Magnitude(),
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> RecoveryReport:
    """Remove a block and rescale by what it made the hidden states grow; nothing is trained.

    ``stream``: one factor s for all features, the mean over tokens of |after| / |before|. Times s
    at the gap is the same as 1/s for all that is added behind it, since norms do not see s: what
    the blocks behind add is divided by s, exactly but for the norms' epsilon.
    ``channel``: a factor for each feature of the last addition before the gap, by least squares;
    it folds exactly into that matrix's rows. ``hadamard``: the same for features turned by a
    Hadamard matrix, which spreads a massive feature over all.
    Source: Prune&Comp, LinearPatch (decision D29).

    Args:
        model: Loses the block, or run of blocks; blocks behind it, or the one before, change.
        unit: Still present; not the first for ``channel``.
        windows: Token ids ``[sequences, length]`` int64.
        settings: What is rescaled.
        seed: Not used; nothing is drawn.
        checkpoint: Not used; there is nothing to resume.

    Raises:
        ArchitectureError: The rescale does not fold into this model.
    """
    run = run_of(model, unit, "magnitude")
    label = f"rescale for {', '.join(map(str, run))}"
    fitted, held = split_holdout(windows, settings.holdout)
    if settings.scale != "stream":
        gap = find_gap(model, run, windows, "current", label)
        sums = moments(gap, fitted, 0)
        change = _factors(sums.cross, sums.gram)
        if settings.scale == "hadamard":
            turn = hadamard(len(sums.gram))
            change = turn @ _factors(turn.T @ sums.cross @ turn, turn.T @ sums.gram @ turn) @ turn.T
        new = fold(model, gap, change)
        spent = settings.sees * gap.flops(fitted)
        return accept(model, run, new, held, fitted, spent, label)
    last = model.position(run[-1].index)
    factor = growth(model, model.position(run[0].index), last, fitted)
    check_head(model, windows[:1])
    new = {}
    for index in model.kept[last + 1 :]:
        new |= rescaled_projections(model, index, windows[:1], factor)
    spent = forward_flops(model, model.kept[: last + 1], tokens_in(fitted), fitted.shape[1])
    return accept(model, run, new, held, fitted, spent, label)


def hadamard(width: int) -> Tensor:
    """Return an orthogonal matrix of a size: Hadamard's, as far as the size has factors of two.

    The odd factor gets the discrete cosine transform.

    Returns:
        ``[width, width]`` float64; a column is a turned feature.
    """
    power = width & -width
    turn = torch.ones(1, 1, dtype=torch.float64)
    while len(turn) < power:
        turn = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), turn)
    places = torch.arange(width // power, dtype=torch.float64)
    angles = math.pi * (2 * places[:, None] + 1) * places / (2 * len(places))
    cosines = angles.cos() * (2 / len(places)) ** 0.5  # [place, frequency]
    cosines[:, 0] /= 2**0.5
    return torch.kron(cosines, turn / power**0.5)


def _factors(cross: Tensor, gram: Tensor) -> Tensor:
    """The best change of each feature by itself, as a diagonal matrix."""
    return (cross.diagonal() / gram.diagonal().clamp_min(1e-300)).diag()


@torch.no_grad()
def growth(model: Model, first: int, last: int, windows: Tensor) -> float:
    """Return the mean over tokens of |what leaves block ``last``| / |what enters ``first``|.

    Args:
        model: Unchanged.
        first: Position of the first block among the remaining ones.
        last: Position of the last block, inclusive.
        windows: Token ids ``[sequences, length]``.
    """
    total = 0.0
    for batch in windows.split(BATCH):
        seen = record(model, batch, first, last)
        ratio = seen.hidden_out.double().norm(dim=-1) / seen.hidden_in.double().norm(dim=-1)
        mask = mask_of(batch)
        total += (ratio if mask is None else ratio[mask.to(ratio.device)]).sum().item()
    return total / tokens_in(windows)


def suits(model: Model, units: Sequence[Unit], batch: Tensor, settings: Magnitude) -> None:
    """Refuse a model that has no matrix to fold into, or whose streams cannot be rescaled.

    Args:
        model: Unchanged.
        units: Remaining blocks that the data run through.
        batch: Token ids ``[batch, seq]``.
        settings: What is rescaled.

    Raises:
        ArchitectureError: The method can work on none of the units.
    """
    if settings.scale != "stream":
        folds_before(model, units, batch, settings)
        return
    check_head(model, batch)
    first_that_works(units, lambda unit: rescaled_projections(model, unit.index, batch, 1.0))
