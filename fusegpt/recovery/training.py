"""The one fine-tuning loop that every trained recovery shares."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fusegpt import parallel
from fusegpt.errors import NumericsError, Stopped
from fusegpt.pace import Pace
from fusegpt.recovery.resume import Checkpoint, parameters_of
from fusegpt.signals import asked_to_stop, saving_first

__all__ = ["Schedule", "cosine_factor", "has_risen", "total_loss", "train"]

logger = logging.getLogger(__name__)

BETAS = (0.9, 0.95)  # of the published code; weight decay 0, eps 1e-8 (decision D13)


@dataclass(frozen=True)
class Schedule:
    """How long and in which order to train.

    Attributes:
        epochs: Passes over all batches.
        num_batches: Batches of one pass; one optimiser step each.
        shuffle: Draw a new order of the batches for each epoch; their make-up never changes.
        seed: Seed of that order.
        warmup: Share of the steps in which learning rates rise to their peak.
        warmup_steps: Number of those steps, in place of the share.
        decay: What follows the rise: ``cosine`` to zero, or ``constant`` at the peak.
        total: Optimiser steps in place of whole epochs; None: all of the epochs.
    """

    epochs: int
    num_batches: int
    shuffle: bool = False
    seed: int = 0
    warmup: float = 0.0
    total: int | None = None
    warmup_steps: int | None = None
    decay: str = "cosine"

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self.epochs * self.num_batches if self.total is None else self.total

    def batch_of(self, step: int) -> int:
        """Return the number of the batch that step ``step`` takes."""
        epoch, place = divmod(step, self.num_batches)
        if not self.shuffle:
            return place
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return int(torch.randperm(self.num_batches, generator=generator)[place])

    def factor(self, step: int) -> float:
        """Return the learning rates' factor: along a line up to 1, then by ``decay``."""
        rising = self.warmup_steps
        if rising is None:
            rising = math.ceil(self.warmup * self.steps)
        if step < rising:
            return (step + 1) / rising
        if self.decay == "constant":
            return 1.0
        return cosine_factor(step - rising, self.steps - rising)


def cosine_factor(step: int, steps: int) -> float:
    """Return the learning-rate factor of a cosine from 1 to 0 over ``steps``, without warm-up."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def train(
    parameters: Sequence[tuple[Iterable[nn.Parameter], float]],
    loss_of: Callable[[int], Tensor],
    schedule: Schedule,
    *,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
    after_epoch: Callable[[], None] = lambda: None,
    clip_norm: float = 0.0,
    fused: bool = False,
    checkpoint: Checkpoint | None = None,
    label: str = "training",
) -> list[dict[str, Any]]:
    """Minimise a loss with Adam, each learning rate at every step as the schedule has it.

    Several processes average their gradients (``fusegpt.parallel``); the leader keeps the state.
    Paper: Section IV-A (decision D13).

    Args:
        parameters: Pairs of parameters and their learning rate. They are changed in place.
        loss_of: Gives the loss of batch number i; scalar, with gradient. Parts of it may have
            been propagated back already.
        schedule: Length and order.
        before: Called before each forward pass, to form weights.
        after: Called after each backward pass, to pull gradients onto ``parameters``.
        after_epoch: Called after each pass over all batches but the last one.
        clip_norm: Largest norm of all gradients together; longer ones are shortened. 0: no limit.
        fused: Take each step in one pass over the memory, without a copy of anything: for whole
            weights. Results differ in rounding (decision D64).
        checkpoint: Where to keep the state while training, and to resume from; the result is
            the same to the last bit, resumed or not.
        label: Names the work in messages.

    Returns:
        One row per step: step, epoch, loss, learning_rate (of the first pair).

    Raises:
        NumericsError: A loss is NaN or infinite.
    """
    groups = [{"params": list(group), "lr": rate, "peak": rate} for group, rate in parameters]
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.Adam(groups, betas=BETAS, fused=fused or None)
    rows = checkpoint.resume(optimizer) if checkpoint else []
    parallel.alike(parameters_of(optimizer))
    hooks = _Hooks(before, after, after_epoch)
    pace = Pace(label, schedule.steps, "optimiser step", done=len(rows))
    with pace, saving_first() if checkpoint else nullcontext():
        _run(optimizer, rows, loss_of, schedule, hooks, clip_norm, checkpoint, pace)
    optimizer.zero_grad(set_to_none=True)
    return rows


@torch.no_grad()
def total_loss(loss_of: Callable[[int], Tensor], numbers: Iterable[int]) -> float:
    """Return the sum of the losses of some batches."""
    return parallel.agreed(math.fsum(loss_of(number).item() for number in numbers))


def has_risen(label: str, before: float, after: float) -> bool:
    """Return whether a training is to be undone, and say so; no number is no better (D25)."""
    risen = not after <= before
    if risen:
        logger.warning("%s: loss rose from %.4g to %.4g; undone", label, before, after)
    return risen


@dataclass(frozen=True)
class _Hooks:
    before: Callable[[], None]
    after: Callable[[], None]
    after_epoch: Callable[[], None]


def _run(
    optimizer: torch.optim.Optimizer,
    rows: list[dict[str, Any]],
    loss_of: Callable[[int], Tensor],
    schedule: Schedule,
    hooks: _Hooks,
    clip_norm: float,
    checkpoint: Checkpoint | None,
    pace: Pace,
) -> None:
    """Take the steps that are left; each adds its row."""
    for step in range(len(rows), schedule.steps):
        factor = schedule.factor(step)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        optimizer.zero_grad(set_to_none=True)
        hooks.before()
        loss = loss_of(schedule.batch_of(step))
        rows.append(_row(step, schedule, loss, optimizer, rows, pace.label))
        loss.backward()
        hooks.after()
        parallel.average(parameters_of(optimizer))
        if clip_norm:
            nn.utils.clip_grad_norm_(parameters_of(optimizer), clip_norm)
        optimizer.step()
        if (step + 1) % schedule.num_batches == 0 and step + 1 < schedule.steps:
            hooks.after_epoch()
        pace.advance(note=f"loss {rows[-1]['loss']:.4g}")
        if checkpoint and step + 1 < schedule.steps:
            checkpoint.save_when_due(optimizer, rows, schedule.steps, time.monotonic())
        if checkpoint and (number := parallel.largest(asked_to_stop() or 0)):
            checkpoint.save(optimizer, rows, schedule.steps)
            parallel.meet()
            place = f"after optimiser step {len(rows)} of {schedule.steps}"
            raise Stopped(number, f"saved {place} in {checkpoint.path}; run again to go on")


def _row(
    step: int,
    schedule: Schedule,
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    rows: list[dict[str, Any]],
    label: str,
) -> dict[str, Any]:
    value, rate = parallel.agreed(loss.item()), optimizer.param_groups[0]["lr"]
    if not math.isfinite(value):
        last = f"{rows[-1]['loss']:.4g}" if rows else "none"
        raise NumericsError(
            f"{label}: loss is {value} at step {step} (learning rate {rate:.3g});"
            f" last finite loss {last}"
        )
    epoch = step // schedule.num_batches
    return {"step": step, "epoch": epoch, "loss": value, "learning_rate": rate}
