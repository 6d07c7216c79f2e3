"""Building the fused weights of a group: which parameters train, and what donors lend them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from fusegpt.models.model import Model
from fusegpt.models.structure.branches import parameters_of
from fusegpt.nn.fused import FusedWeight
from fusegpt.runtime import generator, torch_dtype
from fusegpt.units import Kind, Unit

__all__ = ["donor_tensors", "fused_weights"]


def fused_weights(
    model: Model,
    group: Sequence[int],
    *,
    update_rank: int | Literal["full"],
    train_norms: bool,
    dtype: str,
    seed: int,
    step: int,
    kind: Kind = "block",
) -> dict[str, FusedWeight]:
    """Make, or take up again, the fused weight of every matrix and bias of a group.

    Args:
        model: The weights in its ``fused`` are taken up again (fold: at_end).
        group: Dense indices.
        update_rank: Rank of the low-rank update; 0 leaves it out, ``full`` trains every value.
        train_norms: Also tune the blocks' norms.
        dtype: The dtype of the trainable factors.
        seed: The run's seed.
        step: Removals before this one; with the name it seeds each factor.
        kind: Which units of the group are tuned: whole blocks, or their attentions or mlps alone.
    """
    weights: dict[str, FusedWeight] = {}
    for index in group:
        tuned = {**model.matrices(index), **model.biases(index)}
        if train_norms:
            tuned |= model.norms(index)
        own = parameters_of(model, Unit(kind, index))
        for parameter_name, parameter in tuned.items():
            if parameter_name not in own:
                continue
            name = f"blocks.{index}.{parameter_name}"
            weights[name] = model.fused.get(name) or FusedWeight(
                parameter.detach().clone(),
                update_rank=update_rank,
                dtype=torch_dtype(dtype),
                generator=generator(seed, step, name, "update"),
            )
    return weights


def donor_tensors(model: Model, unit: Unit, donor: str, *, seed: int) -> dict[str, Tensor]:
    """Return what a unit lends its neighbours, by parameter name.

    Args:
        model: The unit is still in it. Its parameters hold its folded weights.
        unit: The unit that is about to be removed.
        donor: ``removed``: its weights. ``shuffled``: the same numbers in a random order.
            ``random``: normal noise with the same mean and deviation. Controls of what the
            donor's content is worth.
        seed: The run's seed.
    """
    tensors: Mapping[str, Tensor] = {**model.matrices(unit.index), **model.biases(unit.index)}
    own = parameters_of(model, unit)
    return {
        name: _donor(tensor.detach(), donor, seed, name)
        for name, tensor in tensors.items()
        if name in own
    }


def _donor(tensor: Tensor, donor: str, seed: int, name: str) -> Tensor:
    if donor == "removed":
        return tensor.clone()
    draw = generator(seed, name, donor)
    if donor == "shuffled":
        order = torch.randperm(tensor.numel(), generator=draw).to(tensor.device)
        return tensor.flatten()[order].reshape(tensor.shape)
    noise = torch.randn(tensor.shape, generator=draw).to(tensor)
    return noise * tensor.std() + tensor.mean()
