"""Fusion: the removed block's weights live on in its neighbours, under learnable coefficients.

    W' = W + B·A + Σ_k C_k ⊙ W_k,   C_k = Ca_k·Cb_k          (Eq. 5, 6, 10)

W is a neighbour's weight, W_k the weight of the same name in the k-th block fused into it, both
frozen; B·A is a low-rank update; ⊙ multiplies element by element. ``FusedWeight`` computes it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence

from torch import Tensor

from fusegpt.models.model import Model
from fusegpt.nn.fused import FusedWeight
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings.group import Fusion
from fusegpt.recovery.tuning import tune_group
from fusegpt.recovery.weights import donor_tensors, fused_weights
from fusegpt.runtime import generator
from fusegpt.units import Unit

__all__ = ["fusion"]

logger = logging.getLogger(__name__)


def fusion(
    model: Model,
    unit: Unit,
    windows: Tensor,
    settings: Fusion = Fusion(),
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> RecoveryReport:
    """Remove a unit, fuse its weights into its neighbours and tune the group lightly.

    The neighbours of a block are blocks, those of an attention attentions, of an mlp mlps.

    An already-fused neighbour gains one more term (Eq. 10); an already-fused block is folded
    before it becomes a donor. At the start every added term is zero: the plain removal.
    Paper: Section III-D, Eq. 5-10, Algorithm 1 (decisions D6-D11, D13).

    Args:
        model: Loses the unit; its neighbours end fused and tuned.
        unit: Still present.
        windows: Token ids ``[sequences, length]`` int64.
        settings: Ranks, donor, loss and schedule.
        seed: Seed of the factors and of the order of batches.
        checkpoint: For resuming inside the step.
    """

    def build(group: Sequence[int]) -> dict[str, FusedWeight]:
        weights = fused_weights(
            model,
            group,
            update_rank=settings.lora_rank,
            train_norms=settings.train_norms,
            dtype=settings.trainable_dtype,
            seed=seed,
            step=len(model.removed),
            kind=unit.kind,
        )
        own, rank = settings.donor == "self", settings.rank
        lent = {} if own else donor_tensors(model, unit, settings.donor, seed=seed)
        for name, weight in weights.items():
            parameter_name = name.split(".", 2)[2]
            tensor = weight.base if own else lent.get(parameter_name)
            if tensor is not None and tensor.shape == weight.base.shape:
                draw = generator(seed, len(model.removed), name, "coefficients")
                weight.add_donor(str(unit.index), tensor, rank=rank, generator=draw)
        _tell_unpaired(weights, unit)
        return weights

    label = f"fusion of {unit} into its neighbours"
    tuning = settings.tuning()
    report = tune_group(
        model, unit, windows, build, tuning, seed=seed, checkpoint=checkpoint, label=label
    )
    return dataclasses.replace(report, fused_into=report.group)


def _tell_unpaired(weights: Mapping[str, FusedWeight], unit: Unit) -> None:
    """Say which weights the removed block, being of another kind, has no counterpart of (D23)."""
    alone = [name for name, weight in weights.items() if str(unit.index) not in weight.donors]
    if alone:
        logger.info(
            "fusion of %s: %d of %d weights have no counterpart in it and get an update only,"
            " %s first",
            unit,
            len(alone),
            len(weights),
            alone[0],
        )
