"""Group fine-tuning without fusion: a low-rank update of every weight around the removed block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from fusegpt.config import Dtype, LearningRate, PositiveInt
from fusegpt.models.model import Model
from fusegpt.nn.fused import FusedWeight
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.tuning import Plan, tune_group
from fusegpt.recovery.weights import fused_weights
from fusegpt.units import Unit

__all__ = ["finetune"]


def finetune(
    model: Model,
    unit: Unit,
    windows: Tensor,
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
    group_size: PositiveInt = 7,
    lora_rank: PositiveInt = 128,
    loss: Literal["kl_batch", "kl_hidden", "mse", "cosine"] = "kl_batch",
    teacher: Literal["current", "original"] = "current",
    epochs: PositiveInt = 20,
    batch_size: PositiveInt = 8,
    learning_rate: LearningRate = 9.65e-6,
    shuffle: bool = False,
    train_norms: bool = False,
    trainable_dtype: Dtype = "float32",
    fold: Literal["each_step", "at_end"] = "each_step",
) -> RecoveryReport:
    """Remove a unit and tune its neighbours: W' = W + B·A for every weight W of the group.

    The neighbours of a block are blocks, those of an attention attentions, of an mlp mlps.

    Fusion without the donor, in the same loop with the same data and teacher.
    Paper: Section IV-C, Table IV, row "MI + fine-tuning" (decisions D9, D10, D13, D16).

    Args:
        model: Loses the unit; its neighbours end tuned.
        unit: Still present.
        windows: Token ids ``[sequences, length]`` int64.
        seed: Of the factors and the order of batches.
        checkpoint: For resuming inside the step.
        group_size: G, neighbours that are tuned.
        lora_rank: Rank of B·A.
        loss: Between the group's hidden states; see ``fusegpt.nn.losses``.
        teacher: The current model, or the original one against drift.
        epochs: Passes over the windows.
        batch_size: Sequences of one batch.
        learning_rate: Peak, along a cosine to zero.
        shuffle: Draw a new order of the batches for each epoch.
        train_norms: Also tune the norms.
        trainable_dtype: Of the factors; ``bfloat16`` reproduces the published dynamics.
        fold: Fold the update into the weights after each step, or keep it training.
    """
    plan = Plan(
        group_size=group_size,
        loss=loss,
        teacher=teacher,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        coefficient_learning_rate=learning_rate,
        shuffle=shuffle,
        fold=fold,
    )

    def build(group: Sequence[int]) -> dict[str, FusedWeight]:
        return fused_weights(
            model,
            group,
            update_rank=lora_rank,
            train_norms=train_norms,
            dtype=trainable_dtype,
            seed=seed,
            step=len(model.removed),
            kind=unit.kind,
        )

    label = f"fine-tuning around {unit}"
    return tune_group(
        model, unit, windows, build, plan, seed=seed, checkpoint=checkpoint, label=label
    )
