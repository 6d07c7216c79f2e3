"""The removed unit's update, emulated by a low-rank map folded into the matrix before the gap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fusegpt.config import Fraction, LearningRate, NonNegativeFloat, PositiveInt
from fusegpt.models.model import Model
from fusegpt.nn.fused import FusedWeight
from fusegpt.nn.mapped import MappedWeight
from fusegpt.recovery.closed_form import accept, fold, moments, ridge_map, split_holdout
from fusegpt.recovery.gap import find_gap, projection_before
from fusegpt.recovery.group import run_of
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.tuning import Plan, tune_group
from fusegpt.runtime import generator
from fusegpt.units import Unit

__all__ = ["low_rank", "truncate"]


def low_rank(
    model: Model,
    unit: Unit | Sequence[Unit],
    windows: Tensor,
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
    fit: Literal["closed_form", "learned"] = "closed_form",
    rank: PositiveInt = 64,
    teacher: Literal["current", "original"] = "current",
    ridge: NonNegativeFloat = 0.1,
    clip: NonNegativeFloat = 5.0,
    holdout: Fraction = 0.25,
    epochs: PositiveInt = 1,
    batch_size: PositiveInt = 8,
    learning_rate: LearningRate = 1e-3,
) -> RecoveryReport:
    """Remove a unit and add a low-rank map of what the matrix before it adds.

    ``closed_form``: D = (AᵀA + λI)⁻¹AᵀR, cut to its largest singular values. ``learned``: the two
    factors are trained from zero, with mean squared error, by the loop that all share. As published
    the map reads what enters the unit; that fits into no plain weight, so here it reads the last
    addition before it. Source: Siddiqui et al., emulation adapters (decision D27).

    Args:
        model: Loses the unit, or run of blocks; the matrix before it changes.
        unit: Still present, and not in the first block.
        windows: Token ids ``[sequences, length]`` int64.
        seed: Of the learned factors; the closed form draws nothing.
        checkpoint: For resuming inside the step.
        fit: How the map is found.
        rank: Of the map.
        teacher: ``current``, or ``original`` against drift.
        ridge: λ in mean squared features of A; closed form only.
        clip: As many usual tokens a token counts at most, 0 for no limit; closed form only.
        holdout: Part of the windows on which the closed form must beat plain removal.
        epochs: Passes over the windows; learned only.
        batch_size: Sequences of one batch; learned only.
        learning_rate: Peak, along a cosine to zero; learned only.
    """
    run = run_of(model, unit, "low_rank")
    label = f"low-rank map for {', '.join(map(str, run))}"
    if fit == "closed_form":
        fitted, held = split_holdout(windows, holdout)
        gap = find_gap(model, run, windows, teacher, label)
        change = truncate(ridge_map(moments(gap, fitted, clip), ridge), rank)
        return accept(model, run, fold(model, gap, change), held, fitted, gap.flops(fitted), label)
    before, projection = projection_before(model, run, windows[:1], label)
    plan = Plan.mse(epochs=epochs, batch_size=batch_size, rate=learning_rate, teacher=teacher)

    def build(group: Sequence[int]) -> dict[str, FusedWeight]:
        name = f"{projection.name}.weight"
        draw = generator(seed, len(model.removed), name, "map")
        base = projection.weight.detach().clone()
        weight = MappedWeight(base, rank=rank, transposed=projection.transposed, generator=draw)
        return {name: weight}

    return tune_group(
        model,
        run,
        windows,
        build,
        plan,
        seed=seed,
        checkpoint=checkpoint,
        label=label,
        group=[before],
    )


def truncate(matrix: Tensor, rank: int) -> Tensor:
    """Return the best approximation of a matrix with a given rank: its largest singular values."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]
