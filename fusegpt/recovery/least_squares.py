"""ReplaceMe: a linear map in place of the removed block, folded into the matrix before the gap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from fusegpt.config import Fraction, NonNegativeFloat
from fusegpt.models.model import Model
from fusegpt.models.units import Unit
from fusegpt.recovery.closed_form import find_gap, fold, moments, ridge_map, settle, split_holdout
from fusegpt.recovery.group import run_of
from fusegpt.recovery.report import RecoveryReport

__all__ = ["least_squares"]


def least_squares(
    model: Model,
    unit: Unit | Sequence[Unit],
    windows: Tensor,
    *,
    seed: int,
    teacher: Literal["current", "original"] = "current",
    ridge: NonNegativeFloat = 0.1,
    clip: NonNegativeFloat = 5.0,
    holdout: Fraction = 0.25,
) -> RecoveryReport:
    """Remove a block; the last matrix of the block before it also adds what is missing.

    T = (AᵀA + λI)⁻¹ (Aᵀ(A + R) + λI): A is what that matrix added for each token, R what the gap
    added. T is multiplied into the matrix: no parameter is added.
    Source: ReplaceMe, least squares; there λ = 0 and no token is clipped (decision D26).

    Args:
        model: Loses the block, or run of blocks; the matrix before it changes.
        unit: Living, and not the first.
        windows: Token ids ``[sequences, length]`` int64.
        seed: Not used; nothing is drawn.
        teacher: ``current``: a map for these blocks, on top of earlier ones. ``original``: one
            map, made anew from the dense model for all blocks that are gone around here.
        ridge: λ in mean squared features of A; draws T to the identity.
        clip: A token counts as much as this many usual ones at most; 0 sets no limit.
        holdout: Part of the windows, the last, on which the result must beat plain removal.
    """
    run = run_of(model, unit, "least_squares")
    label = f"least squares for {', '.join(map(str, run))}"
    fitted, held = split_holdout(windows, holdout)
    gap = find_gap(model, run, windows, teacher, label)
    change = ridge_map(moments(gap, fitted, clip), ridge)
    return settle(model, run, fold(model, gap, change), held, fitted, gap.flops(fitted), label)
