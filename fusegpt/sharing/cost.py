"""What tuning shared blocks takes, as a checkpoint's record and the tables have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from fusegpt.data.masked import tokens_in
from fusegpt.models.flops import forward_flops, training_flops
from fusegpt.models.model import Model
from fusegpt.nn.fused import FusedWeight
from fusegpt.recovery.fit import Fit

__all__ = ["spent"]


def spent(
    model: Model,
    batches: Sequence[Tensor],
    epochs: int,
    weights: Mapping[str, FusedWeight],
    fit: Fit,
    *,
    seen: Sequence[int],
    trained: Sequence[int],
    frozen: Sequence[int],
) -> dict[str, float]:
    """Return trainable_parameters, tokens, optimizer_steps and flops of one tuning.

    With them come ``trainings``, 1, and ``undone``: 1 if it ended worse than it began.

    Args:
        model: Its blocks share weights already.
        batches: Token ids, each ``[batch, seq]``.
        epochs: Passes over them.
        weights: What was trained.
        fit: How it went.
        seen: Dense indices of the blocks that the batches ran through once before, each time anew.
        trained: Blocks whose matrices got gradients.
        frozen: Blocks that gradients only went through.
    """
    tokens, length = sum(map(tokens_in, batches)), batches[0].shape[1]
    tuned = tokens * epochs * fit.attempts
    flops = forward_flops(model, seen, tokens, length)
    flops += training_flops(model, trained, tuned, length)
    flops += training_flops(model, frozen, tuned, length, adapters=True)
    return {
        "trainable_parameters": sum(p.numel() for w in weights.values() for p in w.parameters()),
        "tokens": tuned,
        "optimizer_steps": fit.steps,
        "flops": flops,
        "trainings": 1,
        "undone": int(fit.undone),
    }
