"""ReplaceMe: a linear map in place of the removed block, folded into the matrix before the gap."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from fusegpt.data.masked import tokens_in
from fusegpt.models.model import Model
from fusegpt.recovery.closed_form import accept, fold, moments, ridge_map, split_holdout
from fusegpt.recovery.cosine_map import cosine_map
from fusegpt.recovery.gap import find_gap
from fusegpt.recovery.group import run_of
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings.maps import LeastSquares
from fusegpt.units import Unit

__all__ = ["least_squares"]


def least_squares(
    model: Model,
    unit: Unit | Sequence[Unit],
    windows: Tensor,
    settings: LeastSquares = LeastSquares(),
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> RecoveryReport:
    """Remove a block; the last matrix of the block before it also adds what is missing.

    T = (AᵀA + λI)⁻¹ (Aᵀ(A + R) + λI): A is what that matrix added for each token, R what the gap
    added. T is multiplied into the matrix: no parameter is added. Or T is trained by Adam so that
    the hidden states behind the gap change direction least.
    Source: ReplaceMe, least squares and cosine; there λ = 0, no token is clipped (decision D26).

    Args:
        model: Loses the block, or run of blocks; the matrix before it changes.
        unit: Still present, and not the first.
        windows: Token ids ``[sequences, length]`` int64.
        settings: How T is found. ``ridge`` is λ in mean squared features of A and draws T to the
            identity. ``teacher`` ``current``: a map for these blocks, on top of earlier ones;
            ``original``: one map, made anew from the dense model for all blocks that are gone
            around here.
        seed: Not used; nothing is drawn.
        checkpoint: For resuming inside the step, with the cosine.
    """
    run = run_of(model, unit, "least_squares")
    label = f"least squares for {', '.join(map(str, run))}"
    fitted, held = split_holdout(windows, settings.holdout)
    gap = find_gap(model, run, windows, settings.teacher, label)
    spent = settings.sees * gap.flops(fitted)
    if settings.fit == "closed_form":
        change = ridge_map(moments(gap, fitted, settings.clip), settings.ridge)
        return accept(model, run, fold(model, gap, change), held, fitted, spent, label)
    change, rows = cosine_map(gap, fitted, settings, checkpoint=checkpoint, label=label)
    tokens = tokens_in(fitted) * settings.cosine_epochs
    spent += 4.0 * change.numel() * tokens
    report = accept(model, run, fold(model, gap, change), held, fitted, spent, label)
    ends = {"first_cosine_loss": rows[0]["loss"], "last_cosine_loss": rows[-1]["loss"]}
    return dataclasses.replace(
        report,
        rows=[report.rows[0], report.rows[1] | ends],
        trainable_parameters=change.numel(),
        tokens=tokens,
        optimizer_steps=len(rows),
    )
