"""ReplaceMe's other fit: a map before the gap that keeps the hidden states' direction, by Adam."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from fusegpt.recovery.closed_form import samples
from fusegpt.recovery.gap import Gap
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings.maps import LeastSquares
from fusegpt.recovery.training import Schedule, train

__all__ = ["cosine_map"]


def cosine_map(
    gap: Gap,
    windows: Tensor,
    settings: LeastSquares,
    *,
    checkpoint: Checkpoint | None,
    label: str,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Train D so that 1 - mean over tokens of cos(H + A·D, H + R) falls; D starts at zero.

    H are the hidden states before the gap, A what the last matrix before it added to them, R what
    the gap adds. So D = 0 is the plain removal.

    Args:
        gap: Where.
        windows: Token ids ``[sequences, length]``; what they show is kept in main memory.
        settings: Epochs, batch size and learning rate of Adam.
        checkpoint: For resuming.
        label: Names the work in messages.

    Returns:
        D, ``[hidden, hidden]`` float64 on the CPU, and a row per optimiser step.
    """
    seen = [
        tuple(part.to(gap.source.dtype) for part in parts)
        for parts in samples(gap, windows, settings.cosine_batch_size)
    ]
    width, device = seen[0][0].shape[-1], gap.source.device
    change = nn.Parameter(torch.zeros(width, width, device=device))

    def loss_of(number: int) -> Tensor:
        added, before, after = (part.to(device).float() for part in seen[number])
        return 1 - cosine_similarity(before + added @ change, after, dim=-1).mean()

    with torch.enable_grad():
        rows = train(
            [([change], settings.cosine_learning_rate)],
            loss_of,
            Schedule(settings.cosine_epochs, len(seen)),
            checkpoint=checkpoint,
            label=label,
        )
    return change.detach().cpu().double(), rows
