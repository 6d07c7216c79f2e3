"""The removed unit's update, emulated by a low-rank map folded into the matrix before the gap."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fusegpt.models.model import Model
from fusegpt.nn.fused import FusedWeight
from fusegpt.nn.mapped import MappedWeight
from fusegpt.recovery.closed_form import accept, fold, moments, ridge_map, split_holdout
from fusegpt.recovery.gap import find_gap, projection_before
from fusegpt.recovery.group import run_of
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings.maps import LowRank
from fusegpt.recovery.tuning import tune_group
from fusegpt.runtime import generator
from fusegpt.units import Unit

__all__ = ["low_rank", "truncate"]


def low_rank(
    model: Model,
    unit: Unit | Sequence[Unit],
    windows: Tensor,
    settings: LowRank = LowRank(),
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
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
        settings: How the map is found; ``ridge`` is λ in mean squared features of A.
        seed: Seed of the learned factors; the closed form draws nothing.
        checkpoint: For resuming inside the step.
    """
    run = run_of(model, unit, "low_rank")
    label = f"low-rank map for {', '.join(map(str, run))}"
    if not settings.learned:
        fitted, held = split_holdout(windows, settings.holdout)
        gap = find_gap(model, run, windows, settings.teacher, label)
        whole = ridge_map(moments(gap, fitted, settings.clip), settings.ridge)
        change = truncate(whole, settings.rank)
        spent = settings.sees * gap.flops(fitted)
        return accept(model, run, fold(model, gap, change), held, fitted, spent, label)
    before, projection = projection_before(model, run, windows[:1], label)

    def build(group: Sequence[int]) -> dict[str, FusedWeight]:
        name = f"{projection.name}.weight"
        draw = generator(seed, len(model.removed), name, "map")
        base = projection.weight.detach().clone()
        transposed, rank = projection.transposed, settings.rank
        return {name: MappedWeight(base, rank=rank, transposed=transposed, generator=draw)}

    return tune_group(
        model,
        run,
        windows,
        build,
        settings.tuning(),
        seed=seed,
        checkpoint=checkpoint,
        label=label,
        group=[before],
    )


def truncate(matrix: Tensor, rank: int) -> Tensor:
    """Return the best approximation of a matrix with a given rank: its largest singular values."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    product: Tensor = (left[:, :rank] * values[:rank]) @ right[:rank]
    return product
