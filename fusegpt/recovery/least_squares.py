"""ReplaceMe: a linear map in place of the removed block, folded into the matrix before the gap."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from fusegpt.config import Fraction, LearningRate, NonNegativeFloat, PositiveInt
from fusegpt.models.model import Model
from fusegpt.recovery.closed_form import accept, fold, moments, ridge_map, split_holdout
from fusegpt.recovery.cosine_map import cosine_map
from fusegpt.recovery.gap import find_gap
from fusegpt.recovery.group import run_of
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.units import Unit

__all__ = ["least_squares"]


def least_squares(
    model: Model,
    unit: Unit | Sequence[Unit],
    windows: Tensor,
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
    fit: Literal["closed_form", "cosine"] = "closed_form",
    teacher: Literal["current", "original"] = "current",
    ridge: NonNegativeFloat = 0.1,
    clip: NonNegativeFloat = 5.0,
    holdout: Fraction = 0.25,
    cosine_epochs: PositiveInt = 10,
    cosine_batch_size: PositiveInt = 1,
    cosine_learning_rate: LearningRate = 1e-4,
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
        seed: Not used; nothing is drawn.
        checkpoint: For resuming inside the step; ``cosine`` only.
        fit: ``closed_form``: least squares. ``cosine``: the cosine of the hidden states, by Adam;
            then neither ``ridge`` nor ``clip`` matters.
        teacher: ``current``: a map for these blocks, on top of earlier ones. ``original``: one
            map, made anew from the dense model for all blocks that are gone around here.
        ridge: λ in mean squared features of A; draws T to the identity.
        clip: A token counts as much as this many usual ones at most; 0 sets no limit.
        holdout: Part of the windows, the last, on which the result must beat plain removal.
        cosine_epochs: Passes over the windows.
        cosine_batch_size: Sequences of one step of Adam.
        cosine_learning_rate: Peak, along a cosine to zero.
    """
    run = run_of(model, unit, "least_squares")
    label = f"least squares for {', '.join(map(str, run))}"
    fitted, held = split_holdout(windows, holdout)
    gap = find_gap(model, run, windows, teacher, label)
    if fit == "closed_form":
        change = ridge_map(moments(gap, fitted, clip), ridge)
        return accept(model, run, fold(model, gap, change), held, fitted, gap.flops(fitted), label)
    change, rows = cosine_map(
        gap,
        fitted,
        epochs=cosine_epochs,
        batch_size=cosine_batch_size,
        learning_rate=cosine_learning_rate,
        checkpoint=checkpoint,
        label=label,
    )
    tokens = fitted.numel() * cosine_epochs
    spent = gap.flops(fitted) / 2 + 4.0 * change.numel() * tokens
    report = accept(model, run, fold(model, gap, change), held, fitted, spent, label)
    ends = {"first_cosine_loss": rows[0]["loss"], "last_cosine_loss": rows[-1]["loss"]}
    return dataclasses.replace(
        report,
        rows=[report.rows[0], report.rows[1] | ends],
        trainable_parameters=change.numel(),
        tokens=tokens,
        optimizer_steps=len(rows),
    )
