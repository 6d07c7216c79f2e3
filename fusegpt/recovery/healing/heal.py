"""The one loop of all finishes: micro-batches, logits in chunks, one optimiser step a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fusegpt import parallel
from fusegpt.data.streamed import Streamed
from fusegpt.errors import DataError
from fusegpt.models.flops import forward_flops, head_flops, training_flops
from fusegpt.models.model import Model
from fusegpt.models.structure.checkpointed import checkpointed
from fusegpt.models.structure.replay import head_logits, record
from fusegpt.recovery.healing.objective import Objective
from fusegpt.recovery.healing.trained import trained
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings.finish import FinishSettings
from fusegpt.recovery.training import Schedule, has_risen, total_loss, train

__all__ = ["heal"]

JUDGED = 4
"""Batches on which the model is compared before and after."""


def heal(
    model: Model,
    data: Streamed,
    settings: FinishSettings,
    objective: Objective,
    *,
    seed: int,
    checkpoint: Checkpoint | None,
    label: str,
) -> RecoveryReport:
    """Train the whole pruned model; where the loss rises, nothing is changed (D25).

    Args:
        model: Its weights change; its blocks stay.
        data: Windows; a ragged last batch is dropped.
        settings: What is trained, how long and how fast.
        objective: What is minimised.
        seed: Seed of low-rank factors and of the order of batches.
        checkpoint: For resuming.
        label: Names the work in messages.

    Raises:
        DataError: The windows fill no batch, the tokens no optimiser step, or warm-up takes all.
        NumericsError: A loss is NaN or infinite.
    """
    parallel.check_batch(settings.batch_size, "finish.batch_size")
    batches = data.sequences // settings.batch_size
    steps = settings.steps(data.sequences, data.length)
    if not batches or not steps:
        raise DataError(
            f"finish: must have one batch of {settings.batch_size} windows and one optimiser step,"
            f" got {data.sequences} windows and {steps} steps; sample more, or raise tokens"
        )
    if settings.warmup_steps is not None and settings.warmup_steps >= steps:
        raise DataError(
            f"finish.warmup_steps: must be below the {steps} optimiser steps that the windows give,"
            f" got {settings.warmup_steps}"
        )
    schedule = Schedule(
        1,
        batches,
        settings.shuffle,
        seed,
        settings.warmup,
        total=steps,
        warmup_steps=settings.warmup_steps,
        decay=settings.decay,
    )
    loss_of = batch_losses(model, data, settings, objective)
    judged = [number * batches // JUDGED for number in range(min(JUDGED, batches))]
    with trained(model, settings, seed) as training, checkpointed(model, settings.checkpointing):
        before = total_loss(loss_of, judged)
        with torch.enable_grad():
            rows = train(
                [(training.parameters, settings.learning_rate)],
                loss_of,
                schedule,
                before=training.form,
                checkpoint=checkpoint,
                clip_norm=settings.clip_norm,
                fused=settings.trains != "lora",
                label=label,
            )
        training.form()
        training.undo = has_risen(label, before, total_loss(loss_of, judged))
        trainable = sum(p.numel() for p in training.parameters)
        blocks = training.blocks
    length, tokens = data.length, steps * settings.batch_size * data.length
    first = min(map(model.position, blocks))  # no gradient goes further back
    frozen = [index for index in model.kept[first:] if index not in blocks]
    adapters = settings.trains == "lora"
    flops = training_flops(model, blocks, tokens, length, adapters=adapters)
    flops += forward_flops(model, model.kept[:first], tokens, length)
    flops += training_flops(model, frozen, tokens, length, adapters=True)
    flops += head_flops(model, tokens) * (3 if settings.trains == "all" else 2)
    if settings.checkpointing:
        flops += forward_flops(model, model.kept[first:], tokens, length)
    return RecoveryReport(
        group=blocks,
        rows=rows,
        trainable_parameters=trainable,
        tokens=tokens,
        optimizer_steps=steps,
        flops=flops,
        undone=training.undo,
    )


def batch_losses(
    model: Model, data: Streamed, settings: FinishSettings, objective: Objective
) -> Callable[[int], Tensor]:
    """Return the loss of a batch, whose gradient is there already when it is returned.

    It is the mean over all positions of the batch whose next token counts, however they are split
    into processes, micro-batches and chunks.

    Args:
        model: In eval mode.
        data: Windows.
        settings: Sizes of batches, micro-batches and chunks.
        objective: What is minimised.
    """

    def loss_of(number: int) -> Tensor:
        start = number * settings.batch_size
        counted = max(1, int(data.targets(start, start + settings.batch_size).sum()))
        count = counted / parallel.processes()  # the mean over processes is what counts
        own = parallel.own(settings.batch_size)
        stop, total = start + own.stop, 0.0
        for first in range(start + own.start, stop, settings.micro_batch_size):
            rows = slice(first, min(stop, first + settings.micro_batch_size))
            total += _propagate(model, data, rows, objective, settings.chunk, count)
        total = parallel.summed(total) / parallel.processes()
        return torch.tensor(total, dtype=torch.float64, requires_grad=True)

    return loss_of


def _propagate(
    model: Model, data: Streamed, rows: slice, objective: Objective, chunk: int, count: float
) -> float:
    """Add a micro-batch's part of the gradient, if gradients are wanted, and return its loss.

    The device is asked for numbers once, in the end: it would stand still as often.
    """
    ids = data.tokens(rows.start, rows.stop).to(model.device)  # [batch, seq]
    counts = data.targets(rows.start, rows.stop)  # [batch, seq - 1], on the CPU
    wanted, positions = torch.is_grad_enabled(), counts.shape[1]
    seen = record(model, ids, keep_states=bool(objective.hidden))
    states = seen.hidden_out.detach().requires_grad_(wanted)
    lost = []
    for start in range(0, positions, chunk):
        places = slice(start, min(start + chunk, positions))
        if counts[:, places].any():
            part = (ids, states, counts, rows, places)
            lost.append(_propagate_chunk(model, objective, *part, count))
    outputs, gradients = [seen.hidden_out], [states.grad]
    if objective.hidden:
        apart = _counted(objective.between(model, seen, ids)[:, :-1], counts) / count
        lost.append(objective.hidden * apart.detach().double())
        outputs, gradients = [*outputs, objective.hidden * apart], [*gradients, None]
    pairs = [
        (output, gradient)
        for output, gradient in zip(outputs, gradients, strict=True)
        if gradient is not None or output.dim() == 0
    ]
    if wanted and pairs:
        torch.autograd.backward([output for output, _ in pairs], [grad for _, grad in pairs])
    total = 0.0
    for value in torch.stack(lost).tolist() if lost else ():  # sum() would round otherwise
        total += value
    return total


def _propagate_chunk(
    model: Model,
    objective: Objective,
    ids: Tensor,
    states: Tensor,
    counts: Tensor,
    rows: slice,
    places: slice,
    count: float,
) -> Tensor:
    """Take the loss of some positions back to the last states; its logits end with this call.

    Returns:
        The loss, float64 on the device.
    """
    logits = head_logits(model, ids[:, places], states[:, places])
    following = ids[:, places.start + 1 : places.stop + 1]
    loss = _counted(objective.at(logits, following, rows, places), counts[:, places]) / count
    if loss.requires_grad:
        loss.backward()
    return loss.detach().double()


def _counted(each: Tensor, counts: Tensor) -> Tensor:
    """Return the sum over the positions that count; which they are is known on the CPU."""
    chosen = each.flatten() if counts.all() else each[counts.to(each.device)]
    return chosen.sum()
