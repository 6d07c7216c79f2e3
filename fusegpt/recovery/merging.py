"""Removing units while their weights are added to others' by a fixed rule, without any text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fusegpt.models.model import Model
from fusegpt.models.surgery.removal import remove
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.weights import donor_tensors
from fusegpt.units import Unit

__all__ = ["merge"]

Combine = Callable[[str, Tensor, list[Tensor]], Tensor]


@torch.no_grad()
def merge(
    model: Model, run: Sequence[Unit], into: Sequence[int], combine: Combine
) -> RecoveryReport:
    """Remove a run and combine each matrix and bias of some blocks with its counterparts there.

    Counterparts have the same name and shape, as in fusion; norms stay as they are.

    Args:
        model: Loses the run; weights of ``into`` change.
        run: Remaining units of one kind.
        into: Dense indices of remaining blocks outside the run.
        combine: From a parameter's name, its value and those of its counterparts, at least one,
            all float32, to the new value.
    """
    lent = [donor_tensors(model, unit, "removed", seed=0) for unit in run]
    new = {}
    for index in into:
        for name, own in {**model.matrices(index), **model.biases(index)}.items():
            found = [tensors[name] for tensors in lent if name in tensors]
            found = [tensor.float() for tensor in found if tensor.shape == own.shape]
            if found:
                full = f"blocks.{index}.{name}"
                new[full] = combine(full, own.detach().float(), found)
    remove(model, *run)
    for name, value in new.items():
        model.parameter(name).copy_(value)
    return RecoveryReport(changed=list(new), fused_into=list(into))
