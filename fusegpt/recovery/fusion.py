"""Fusion: the removed block's weights live on in its neighbours, under learnable coefficients.

    W' = W + B·A + Σ_k C_k ⊙ W_k,   C_k = Ca_k·Cb_k          (Eq. 5, 6, 10)

W is a neighbour's weight, W_k the weight of the same name in the k-th block fused into it, both
frozen; B·A is a low-rank update; ⊙ multiplies element by element. ``FusedWeight`` computes it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from fusegpt.config import Dtype, LearningRate, NonNegativeInt, PositiveInt
from fusegpt.models.model import Model
from fusegpt.nn.fused import FusedWeight
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.tuning import Plan, tune_group
from fusegpt.recovery.weights import donor_tensors, fused_weights
from fusegpt.runtime import generator
from fusegpt.units import Unit

__all__ = ["fusion"]

logger = logging.getLogger(__name__)


def fusion(
    model: Model,
    unit: Unit,
    windows: Tensor,
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
    group_size: PositiveInt = 7,
    rank: PositiveInt = 128,
    lora_rank: NonNegativeInt = 128,
    donor: Literal["removed", "self", "shuffled", "random"] = "removed",
    loss: Literal["kl_batch", "kl_hidden", "mse", "cosine"] = "kl_batch",
    teacher: Literal["current", "original"] = "current",
    epochs: PositiveInt = 20,
    batch_size: PositiveInt = 8,
    learning_rate: LearningRate = 9.65e-6,
    coefficient_learning_rate: LearningRate = 1e-3,
    shuffle: bool = False,
    train_norms: bool = False,
    trainable_dtype: Dtype = "float32",
    fold: Literal["each_step", "at_end"] = "each_step",
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
        seed: Of the factors and the order of batches.
        checkpoint: For resuming inside the step.
        group_size: G, neighbours that receive the block.
        rank: Of the coefficient matrices C_k.
        lora_rank: Of B·A; 0 trains coefficients only.
        donor: Whose weights W_k are: the removed block's, or a control of what they are worth:
            the neighbour's own (``self``), the removed block's ``shuffled``, or ``random``.
        loss: Between the group's hidden states; see ``fusegpt.nn.losses``.
        teacher: The current model, or the original one against drift.
        epochs: Passes over the windows.
        batch_size: Sequences of one batch; Eq. 7 normalises over them.
        learning_rate: Peak for B·A, along a cosine to zero.
        coefficient_learning_rate: Peak for C_k, along the same cosine.
        shuffle: Draw a new order of the batches for each epoch.
        train_norms: Also tune the norms.
        trainable_dtype: Of the factors; ``bfloat16`` reproduces the published dynamics.
        fold: Fold everything into plain weights after each step, or let old terms go on training.
    """
    plan = Plan(
        group_size=group_size,
        loss=loss,
        teacher=teacher,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        coefficient_learning_rate=coefficient_learning_rate,
        shuffle=shuffle,
        fold=fold,
    )

    def build(group: Sequence[int]) -> dict[str, FusedWeight]:
        weights = fused_weights(
            model,
            group,
            update_rank=lora_rank,
            train_norms=train_norms,
            dtype=trainable_dtype,
            seed=seed,
            step=len(model.removed),
            kind=unit.kind,
        )
        lent = {} if donor == "self" else donor_tensors(model, unit, donor, seed=seed)
        for name, weight in weights.items():
            parameter_name = name.split(".", 2)[2]
            tensor = weight.base if donor == "self" else lent.get(parameter_name)
            if tensor is not None and tensor.shape == weight.base.shape:
                draw = generator(seed, len(model.removed), name, "coefficients")
                weight.add_donor(str(unit.index), tensor, rank=rank, generator=draw)
        _tell_unpaired(weights, unit)
        return weights

    label = f"fusion of {unit} into its neighbours"
    report = tune_group(
        model, unit, windows, build, plan, seed=seed, checkpoint=checkpoint, label=label
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
