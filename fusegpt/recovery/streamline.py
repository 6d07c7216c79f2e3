"""LLM-Streamline: one block is trained to do the work of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from fusegpt.config import LearningRate, PositiveInt
from fusegpt.models.model import Model
from fusegpt.nn.fused import FusedWeight
from fusegpt.recovery.causal import tune_by_next_token
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.tuning import Plan, tune_group
from fusegpt.recovery.weights import fused_weights
from fusegpt.units import Unit

__all__ = ["streamline"]


def streamline(
    model: Model,
    unit: Unit | Sequence[Unit],
    windows: Tensor,
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
    loss: Literal["kl_batch", "kl_hidden", "mse", "cosine", "next_token"] = "mse",
    teacher: Literal["current", "original"] = "current",
    epochs: PositiveInt = 1,
    batch_size: PositiveInt = 8,
    learning_rate: LearningRate = 2e-4,
    shuffle: bool = False,
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
        seed: Of the order of batches.
        checkpoint: For resuming inside the step.
        loss: Between the neighbour's output and the removed block's; see ``fusegpt.nn.losses``. Or
            ``next_token``: of the whole pruned model, of which only the neighbour trains; it
            knows no teacher.
        teacher: The current model, or the original one.
        epochs: Passes over the windows.
        batch_size: Sequences of one batch.
        learning_rate: Peak, along a cosine to zero.
        shuffle: Draw a new order of the batches for each epoch.
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
    if loss == "next_token":
        return tune_by_next_token(
            model,
            unit,
            windows,
            build,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            shuffle=shuffle,
            seed=seed,
            checkpoint=checkpoint,
            label=label,
        )
    plan = Plan(
        group_size=1,
        loss=loss,
        teacher=teacher,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        coefficient_learning_rate=learning_rate,
        shuffle=shuffle,
        fold="each_step",
    )
    return tune_group(
        model, unit, windows, build, plan, seed=seed, checkpoint=checkpoint, label=label
    )
