"""Training the factors of fused weights, whatever the loss: the model's own parameters follow."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fusegpt.models.model import Model
from fusegpt.nn.fused import FusedWeight
from fusegpt.nn.leaves import form_into, trainable
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.training import Schedule, train

__all__ = ["fit_weights"]

logger = logging.getLogger(__name__)


def fit_weights(
    model: Model,
    weights: Mapping[str, FusedWeight],
    loss_of: Callable[[int], Tensor],
    schedule: Schedule,
    rates: tuple[float, float],
    *,
    checkpoint: Checkpoint | None,
    label: str,
) -> list[dict[str, object]]:
    """Train the factors; the model's parameters end with the formed weights.

    Each weight is formed into its parameter once per optimiser step and the parameter's gradient is
    pulled back onto the factors, so the blocks run as they are. When the loss over all batches ends
    higher than it began, the factors go back to where they began (D25).

    Args:
        model: Its parameters of the weights' names change.
        weights: By parameter name; all must have a part in the loss.
        loss_of: Gives the loss of batch number i.
        schedule: Length and order.
        rates: Learning rates of updates and of coefficients.
        checkpoint: For resuming.
        label: Names the work in messages.

    Returns:
        One row per optimiser step.
    """
    leaves = {name: model.parameter(name) for name in weights}

    def form() -> None:
        form_into(leaves, weights)

    def pull() -> None:
        for name, weight in weights.items():
            gradient = leaves[name].grad
            assert gradient is not None, name
            weight.pull(gradient)
            leaves[name].grad = None

    updates = [p for weight in weights.values() for p in weight.update_parameters()]
    coefficients = [p for weight in weights.values() for p in weight.coefficient_parameters()]
    begun = [parameter.detach().clone() for w in weights.values() for parameter in w.parameters()]
    form()
    before = _total(loss_of, schedule.num_batches)
    with trainable(leaves.values()), torch.enable_grad():
        rows = train(
            [(updates, rates[0]), (coefficients, rates[1])],
            loss_of,
            schedule,
            before=form,
            after=pull,
            checkpoint=checkpoint,
            label=label,
        )
    form()
    after = _total(loss_of, schedule.num_batches)
    if after > before:
        logger.warning("%s: loss rose from %.4g to %.4g; undone", label, before, after)
        _put_back(weights, begun)
        form()
    return rows


@torch.no_grad()
def _total(loss_of: Callable[[int], Tensor], num_batches: int) -> float:
    return math.fsum(loss_of(number).item() for number in range(num_batches))


@torch.no_grad()
def _put_back(weights: Mapping[str, FusedWeight], values: Sequence[Tensor]) -> None:
    parameters = [parameter for weight in weights.values() for parameter in weight.parameters()]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
