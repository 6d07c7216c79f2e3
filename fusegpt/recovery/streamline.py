"""LLM-Streamline: one block is trained to do the work of two."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fusegpt.models.model import Model
from fusegpt.nn.fused import FusedWeight
from fusegpt.recovery.causal import tune_by_next_token
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings.whole import Streamline
from fusegpt.recovery.tuning import tune_group
from fusegpt.recovery.weights import fused_weights
from fusegpt.units import Unit

__all__ = ["streamline"]


def streamline(
    model: Model,
    unit: Unit | Sequence[Unit],
    windows: Tensor,
    settings: Streamline = Streamline(),
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> RecoveryReport:
    """Remove a block, or a run, and train all of the block before to give what both gave.

    The published method takes a run of n+1 blocks out and puts in one, which starts as the first
    of the run: n fewer blocks. Here the first of the run stays where it is, so that each step
    removes one block, and a run cut step by step ends as the published one. Before the first
    block there is none; then the block after it is trained.
    Source: LLM-Streamline (decision D28).

    Args:
        model: Loses the block, or run of blocks; its neighbour ends trained.
        unit: Still present.
        windows: Token ids ``[sequences, length]`` int64.
        settings: Loss and schedule. The loss is between the neighbour's output and the removed
            block's; or ``next_token``, of the whole pruned model, of which only the neighbour
            trains.
        seed: Seed of the order of batches.
        checkpoint: For resuming inside the step.
    """

    def build(group: Sequence[int]) -> dict[str, FusedWeight]:
        return fused_weights(
            model,
            group,
            update_rank="full",
            train_norms=True,
            dtype="float32",
            seed=seed,
            step=len(model.removed),
        )

    label = f"replacing {unit}" if isinstance(unit, Unit) else "replacing a run"
    tune = tune_by_next_token if settings.loss == "next_token" else tune_group
    tuning = settings.tuning()
    return tune(model, unit, windows, build, tuning, seed=seed, checkpoint=checkpoint, label=label)
