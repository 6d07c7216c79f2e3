"""Policy gradient: probabilities of keeping each unit, learned from the losses of sub-networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fusegpt.importance.ablation import run_without
from fusegpt.importance.checks import finite
from fusegpt.importance.drawn import PolicyGradient
from fusegpt.importance.losses import sequence_loss
from fusegpt.models.model import Model
from fusegpt.models.structure.replay import head_logits
from fusegpt.models.structure.visits import recordings
from fusegpt.runtime import generator
from fusegpt.units import Unit

__all__ = ["learn", "policy_gradient", "project"]

EPSILON = 1e-7
"""Keeps the gradient finite where a probability is 0 or 1."""


@torch.no_grad()
def policy_gradient(
    model: Model,
    batches: Sequence[Tensor],
    units: Sequence[Unit],
    settings: PolicyGradient = PolicyGradient(),
    *,
    seed: int,
) -> Tensor:
    """Score each unit by the probability of keeping it that makes drawn sub-networks predict best.

    A step takes one sequence and K sub-networks, in which unit i is present (m_i = 1) with
    probability p_i, and moves p against

        1/(K-1) · Σ_k (L_k - b) · (m_k - p) / sqrt(p·(1 - p)),

    without any backward pass: L_k is a sub-network's loss above the whole model's, b a moving mean
    of it. Then p is projected onto 0 <= p <= 1, sum p = kept · units.
    Paper: Bypass Back-propagation, arXiv 2406.10576 (decision D57).

    Args:
        model: The model as pruned so far, in eval mode. Unchanged on return.
        batches: Calibration token ids, each ``[batch, seq]`` int64, without padding.
        units: The units still present; all others are in every sub-network.
        settings: How many sub-networks are drawn, how large they are, and how p learns.
        seed: Seed of the draws.

    Returns:
        ``[units]`` float64 on the CPU, in [0, 1]: the mean of p over the second half of the steps.

    Raises:
        NumericsError: A loss is NaN or infinite. The message names the unit.
    """
    rows = [row for batch in batches for row in batch.split(1)]
    first = model.position(units[0].index)
    seen = list(recordings(model, rows, first))
    whole = [_loss(model, row, one.hidden_out) for row, one in zip(rows, seen, strict=True)]

    def loss(place: int, present: Tensor) -> float:
        missing = [unit for unit, here in zip(units, present.tolist(), strict=True) if not here]
        states = run_without(model, seen[place].calls, seen[place].hidden_in, missing)
        return _loss(model, rows[place], states) - whole[place]

    return finite("policy_gradient", units, learn(loss, len(units), len(rows), settings, seed))


def learn(
    loss: Callable[[int, Tensor], float],
    num_units: int,
    num_rows: int,
    settings: PolicyGradient,
    seed: int,
) -> Tensor:
    """Learn the probabilities of keeping units from what sub-networks lose.

    Args:
        loss: From the number of a sequence, and which units are present (``[units]`` bool).
        num_units: Number of units.
        num_rows: Number of sequences; they are taken in turn.
        settings: As of ``policy_gradient``.
        seed: Seed of the draws.
    """
    draw = generator(seed, "policy_gradient")
    keep = torch.full((num_units,), settings.kept, dtype=torch.float64)
    mean, baseline = torch.zeros_like(keep), None
    steps = settings.rounds * num_rows
    for step in range(steps):
        chance = torch.rand(settings.samples, num_units, generator=draw, dtype=torch.float64)
        drawn = chance < keep
        losses = torch.tensor([loss(step % num_rows, mask) for mask in drawn], dtype=torch.float64)
        level = losses.mean()
        baseline = level if baseline is None else baseline + (level - baseline) / settings.memory
        turn = (drawn.double() - keep) / ((keep + EPSILON) * (1 - keep + EPSILON)).sqrt()
        gradient = ((losses - baseline)[:, None] * turn).sum(0) / (settings.samples - 1)
        rate = settings.learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
        keep = project(keep - rate * gradient, settings.kept * num_units)
        if step >= steps // 2:
            mean += keep / (steps - steps // 2)
    return mean


def project(values: Tensor, total: float) -> Tensor:
    """Return the nearest point whose entries are in [0, 1] and sum to ``total``, by bisection."""
    low, high = values.min() - 1, values.max()
    for _ in range(60):
        shift = (low + high) / 2
        if (values - shift).clamp(0, 1).sum() > total:
            low = shift
        else:
            high = shift
    return (values - (low + high) / 2).clamp(0, 1)


def _loss(model: Model, tokens: Tensor, states: Tensor) -> float:
    return sequence_loss(head_logits(model, tokens, states), tokens).double().item()
