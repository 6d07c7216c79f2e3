"""Taylor: what the loss would change, to first order, if a unit's weights were zero."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fusegpt.importance.checks import finite
from fusegpt.importance.losses import sequence_loss
from fusegpt.importance.settings import Taylor
from fusegpt.models.model import Model
from fusegpt.models.structure.branches import parameters_of
from fusegpt.units import Unit

__all__ = ["taylor"]


def taylor(
    model: Model,
    batches: Sequence[Tensor],
    units: Sequence[Unit],
    settings: Taylor = Taylor(),
) -> Tensor:
    """Score each unit by the first-order effect of its weights on the loss.

    Sum over the unit's parameters w of |w * dL/dw|; L is the mean cross-entropy of the next token.
    Paper: Shortened LLaMA, arXiv 2402.02834, Section 3.1: scored once; with "+" the first four
    and last two blocks stay (decision D34).

    Args:
        model: The model as pruned so far, in eval mode. Unchanged on return, also in what
            requires gradients. Gradients of all units are held in float32: four bytes a parameter.
        batches: Calibration token ids, each ``[batch, seq]`` int64, without padding. One sequence
            at a time goes through the model.
        units: The units still present.
        settings: Not used; what they protect is not among ``units``.

    Returns:
        ``[units]`` float64 on the CPU, nats, 0 or more.

    Raises:
        NumericsError: A gradient is NaN or infinite. The message names the unit.
    """
    owned = {unit: list(parameters_of(model, unit).values()) for unit in units}
    weights = [parameter for parameters in owned.values() for parameter in parameters]
    gradients = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    sequences = sum(len(batch) for batch in batches)
    with _requiring_gradients(weights):
        for tokens in (row for batch in batches for row in batch.split(1)):
            logits = model.module(**model.inputs(tokens), use_cache=False).logits
            loss = sequence_loss(logits, tokens)
            found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
            for gradient, new in zip(gradients, found, strict=True):
                gradient += new.float() / sequences
    with torch.no_grad():
        effects = [
            (weight.float() * gradient).abs().sum(dtype=torch.float64).cpu()
            for weight, gradient in zip(weights, gradients, strict=True)
        ]
    scores, start = [], 0
    for parameters in owned.values():
        scores.append(torch.stack(effects[start : start + len(parameters)]).sum())
        start += len(parameters)
    return finite("taylor", units, torch.stack(scores))


@contextmanager
def _requiring_gradients(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    before = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for weight, required in zip(weights, before, strict=True):
            weight.requires_grad_(required)
