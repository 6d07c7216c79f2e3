"""What the closed forms share: a removed unit's update, as the matrix before the gap sees it.

A is what the last matrix before the gap adds to the hidden states, R what the gap adds after it.
A map D of features, folded into that matrix, makes it add A·(I + D); plain removal is D = 0.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fusegpt.data.masked import IGNORED, mask_of, next_tokens, predicted, tokens_in
from fusegpt.errors import DataError, NumericsError
from fusegpt.models.flops import forward_flops, head_flops
from fusegpt.models.model import Model, split_name
from fusegpt.models.structure.branches import around
from fusegpt.models.structure.replay import record
from fusegpt.models.structure.residual import watch_output
from fusegpt.models.surgery.removal import remove
from fusegpt.recovery.gap import Gap
from fusegpt.recovery.report import RecoveryReport
from fusegpt.units import Unit

__all__ = [
    "Moments",
    "accept",
    "fold",
    "moments",
    "next_token_loss",
    "ridge_map",
    "samples",
    "split_holdout",
]

logger = logging.getLogger(__name__)

BATCH = 8
"""Sequences that run at once; changes results by rounding only."""


@dataclass(frozen=True)
class Moments:
    """Weighted sums over tokens, float64.

    Attributes:
        gram: AᵀA, ``[hidden, hidden]``.
        cross: AᵀR, ``[hidden, hidden]``.
        update: Weighted mean of R, ``[hidden]``.
        tokens: How many there were.
    """

    gram: Tensor
    cross: Tensor
    update: Tensor
    tokens: int


def moments(gap: Gap, windows: Tensor, clip: float) -> Moments:
    """Sum AᵀA, AᵀR and R over all tokens, none of which counts for more than ``clip`` usual ones.

    Tokens with massive activations would decide a least-squares fit alone. A token whose A or R is
    longer than ``clip`` times the median is weighed as if it were that long; 0 weighs all alike.

    Args:
        gap: Where.
        windows: Token ids ``[sequences, length]``.
        clip: In medians.
    """
    limits = _limits(gap, windows, clip) if clip else None
    width = gap.projection.weight.shape[1 if gap.projection.transposed else 0]
    gram, cross = (torch.zeros(width, width, dtype=torch.float64) for _ in range(2))
    update, total, tokens = torch.zeros(width, dtype=torch.float64), 0.0, 0
    for added, missing in _samples(gap, windows):
        weight = torch.ones(len(added), 1, dtype=torch.float64)
        for rows, limit in zip((added, missing), limits or (), strict=False):
            weight = weight.minimum(limit / rows.norm(dim=1, keepdim=True).clamp_min(1e-300))
        scaled = added * weight**2
        gram += scaled.T @ added
        cross += scaled.T @ missing
        update += (missing * weight).sum(0)
        total += weight.sum().item()
        tokens += len(added)
    return Moments(gram, cross, update / total, tokens)


def ridge_map(sums: Moments, ridge: float) -> Tensor:
    """Return D with the least |A·D - R|² + λ·|D|², λ = ridge · mean diagonal of AᵀA; float64.

    Drawn towards 0, so I + D towards the plain removal: directions that the data do not show stay.

    Raises:
        NumericsError: Without a ridge, the data do not determine D.
    """
    level = ridge * sums.gram.diagonal().mean()
    system = sums.gram + level * torch.eye(len(sums.gram), dtype=torch.float64)
    found: Tensor
    found, failed = torch.linalg.solve_ex(system, sums.cross)
    if failed or not torch.isfinite(found).all():
        raise NumericsError(
            f"least squares: {sums.tokens} tokens do not determine {len(system)} features;"
            " give more windows, or a ridge above 0"
        )
    return found


def fold(model: Model, gap: Gap, change: Tensor) -> dict[str, Tensor]:
    """Return the parameters of the matrix before the gap with I + D folded in, model dtype.

    Args:
        model: Its parameters' names and dtypes.
        gap: Its projection lends the weights that are changed.
        change: D, ``[hidden, hidden]`` float64.
    """
    weight, bias = gap.projection.weight.detach().cpu().double(), gap.projection.bias
    folded = weight + (weight @ change if gap.projection.transposed else change.T @ weight)
    new = {f"{gap.projection.name}.weight": folded}
    if bias is not None:
        plain = bias.detach().cpu().double()
        new[f"{gap.projection.name}.bias"] = plain + plain @ change
    return {name: value.to(model.dtype) for name, value in new.items()}


def accept(
    model: Model,
    run: Sequence[Unit],
    new: dict[str, Tensor],
    holdout: Tensor,
    fitted: Tensor,
    spent: float,
    label: str,
) -> RecoveryReport:
    """Remove the run and take ``new`` over, unless text that was held out is better without it.

    Args:
        model: Loses the run; gains the parameters ``new``.
        run: Remaining blocks.
        new: Values by parameter name.
        holdout: Token ids ``[sequences, length]`` to compare on, by the mean loss of a next token.
        fitted: The windows that were fitted on.
        spent: FLOPs of the fit.
        label: Names the work in messages.
    """
    remove(model, *run)
    compared = tokens_in(holdout)
    spent += 2 * forward_flops(model, model.kept, compared, holdout.shape[1])
    spent += 2 * head_flops(model, compared)
    old = {name: model.parameter(name).detach().clone() for name in new}
    plain = next_token_loss(model, holdout)
    _write(model, new)
    reached = next_token_loss(model, holdout)
    keep = reached <= plain
    if not keep:
        logger.warning("%s: held-out loss %.4g -> %.4g; undone", label, plain, reached)
        _write(model, old)
    rows = [
        {"step": 0, "epoch": 0, "loss": plain, "learning_rate": 0.0},
        {
            "step": 1,
            "epoch": 1,
            "loss": reached if keep else plain,
            "learning_rate": 0.0,
            "fitted_loss": reached,
            "folded": keep,
        },
    ]
    return RecoveryReport(
        changed=list(new),
        group=sorted({split_name(name)[0] for name in new}),
        rows=rows,
        tokens=tokens_in(fitted),
        flops=spent,
        undone=not keep,
    )


def split_holdout(windows: Tensor, holdout: float) -> tuple[Tensor, Tensor]:
    """Split windows into those to fit on and, the last ones, those to compare on.

    Raises:
        DataError: There are fewer than two.
    """
    if len(windows) < 2:
        raise DataError(
            f"finetune data: must have 2 sequences, one to compare on, got {len(windows)}"
        )
    count = min(max(1, round(len(windows) * holdout)), len(windows) - 1)
    return windows[:-count], windows[-count:]


@torch.no_grad()
def next_token_loss(model: Model, windows: Tensor) -> float:
    """Return the mean loss of the next token in nats, one sequence at a time; float64 sums."""
    total, count = 0.0, 0
    for window in windows.split(1):
        targets = next_tokens(window)[0].to(model.device)
        logits = model.module(**model.inputs(window), use_cache=False).logits[0, :-1].float()
        loss = nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
        total += loss.double().item()
        count += predicted(window)
    return total / count


def _limits(gap: Gap, windows: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    lengths: tuple[list[Tensor], list[Tensor]] = ([], [])
    for pair in _samples(gap, windows):
        for found, rows in zip(lengths, pair, strict=True):
            found.append(rows.norm(dim=1))
    added, missing = (clip * torch.cat(found).median() for found in lengths)
    return added, missing


@torch.no_grad()
def samples(
    gap: Gap, windows: Tensor, batch_size: int = BATCH
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield A and the states before and behind the gap, ``[tokens, hidden]`` float64 on the CPU.

    Padding is left out.
    """
    first, last = gap.source.position(gap.before), gap.source.position(gap.last)
    for batch in windows.split(batch_size):
        with watch_output(gap.projection.module) as outputs:
            seen = record(gap.source, batch, first, last, keep_states=True)
        width = seen.hidden_out.shape[-1]
        before, after = seen.states[min(1, last - first)], seen.hidden_out
        added = outputs[-1].cpu().double() * gap.projection.factor
        if gap.sublayer is not None:
            before, after = around(gap.source, gap.sublayer, seen.calls[-1], seen.states[-1], after)
        parts = (added, before.cpu().double(), after.cpu().double())
        mask = mask_of(batch)
        kept = slice(None) if mask is None else mask.flatten()
        yield tuple(part.reshape(-1, width)[kept] for part in parts)  # type: ignore[misc]


def _samples(gap: Gap, windows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield A and R of one batch after the other, ``[tokens, hidden]`` float64 on the CPU."""
    for added, before, after in samples(gap, windows):
        yield added, after - before


@torch.no_grad()
def _write(model: Model, values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        model.parameter(name).copy_(value)
