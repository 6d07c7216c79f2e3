"""Group fine-tuning without fusion: a low-rank update of every weight around the removed block."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fusegpt.models.model import Model
from fusegpt.nn.fused import FusedWeight
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings.group import Finetune
from fusegpt.recovery.tuning import tune_group
from fusegpt.recovery.weights import fused_weights
from fusegpt.units import Unit

__all__ = ["finetune"]


def finetune(
    model: Model,
    unit: Unit,
    windows: Tensor,
    settings: Finetune = Finetune(),
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> RecoveryReport:
    """Remove a unit and tune its neighbours: W' = W + B·A for every weight W of the group.

    The neighbours of a block are blocks, those of an attention attentions, of an mlp mlps.

    Fusion without the donor, in the same loop with the same data and teacher.
    Paper: Section IV-C, Table IV, row "MI + fine-tuning" (decisions D9, D10, D13, D16).

    Args:
        model: Loses the unit; its neighbours end tuned.
        unit: Still present.
        windows: Token ids ``[sequences, length]`` int64.
        settings: Rank, loss and schedule.
        seed: Seed of the factors and of the order of batches.
        checkpoint: For resuming inside the step.
    """

    def build(group: Sequence[int]) -> dict[str, FusedWeight]:
        return fused_weights(
            model,
            group,
            update_rank=settings.lora_rank,
            train_norms=settings.train_norms,
            dtype=settings.trainable_dtype,
            seed=seed,
            step=len(model.removed),
            kind=unit.kind,
        )

    label, tuning = f"fine-tuning around {unit}", settings.tuning()
    return tune_group(
        model, unit, windows, build, tuning, seed=seed, checkpoint=checkpoint, label=label
    )
