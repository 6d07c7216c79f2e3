"""What tuning shared blocks takes and comes to, as a checkpoint's record and the tables have it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fusegpt.data.masked import tokens_in
from fusegpt.models.flops import forward_flops, training_flops
from fusegpt.models.model import Model
from fusegpt.nn.fused import FusedWeight
from fusegpt.recovery.fit import Fit

__all__ = ["spent", "told"]

logger = logging.getLogger(__name__)


def spent(
    model: Model,
    batches: Sequence[Tensor],
    epochs: int,
    weights: Mapping[str, FusedWeight],
    fit: Fit,
    *,
    label: str,
    seen: Sequence[int],
    trained: Sequence[int],
    frozen: Sequence[int],
) -> dict[str, float]:
    """Say how one tuning went; return its trainable_parameters, tokens, optimizer_steps and flops.

    And ``undone``: 1 where it ended worse than it began, so that nothing of it was kept, else 0.

    Args:
        model: Its blocks share weights already.
        batches: Token ids, each ``[batch, seq]``.
        epochs: Passes over them.
        weights: What was trained.
        fit: How it went.
        label: Names it in the log.
        seen: Dense indices of the blocks that the batches ran through once before, each time anew.
        trained: Blocks whose matrices got gradients.
        frozen: Blocks that gradients only went through.
    """
    losses, end = [row["loss"] for row in fit.rows], " (undone)" if fit.undone else ""
    logger.info("%s: loss %.4g -> %.4g%s", label, losses[0], losses[-1], end)
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
        "undone": int(fit.undone),
    }


def told(tunings: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return what a record says of several tunings, as ``spent`` returned them."""
    if not tunings:
        return {}
    total = {key: sum(one[key] for one in tunings) for key in tunings[0]}
    total["trainable_parameters"] = max(one["trainable_parameters"] for one in tunings)
    undone = {"undone": count} if (count := total.pop("undone")) else {}
    return {"spent": total, "trainings": len(tunings), **undone}
