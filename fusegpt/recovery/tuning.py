"""Tuning the group around a removed unit towards what it computed with that unit (Eq. 7-9)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fusegpt import parallel
from fusegpt.data.masked import mask_of, tokens_in
from fusegpt.data.windows import full_batches
from fusegpt.errors import ArchitectureError
from fusegpt.models.checkpoints.load import load_original
from fusegpt.models.flops import forward_flops, training_flops
from fusegpt.models.model import Model
from fusegpt.models.structure.calls import Call, share_calls
from fusegpt.models.structure.visits import recordings
from fusegpt.models.surgery.removal import remove
from fusegpt.nn.fused import FusedWeight
from fusegpt.nn.losses import masked
from fusegpt.pace import Pace
from fusegpt.recovery.fit import fit_weights
from fusegpt.recovery.group import group_of, run_of
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.room import States, runner
from fusegpt.recovery.settings import Tuning
from fusegpt.units import Unit

__all__ = ["Example", "tune_group"]

logger = logging.getLogger(__name__)


@dataclass
class Example:
    """One batch as the group sees it.

    Attributes:
        calls: Call arguments of the student's blocks, in order, for this process's sequences.
        mask: ``[batch, seq]`` bool, False for padding; None: there is none.
        tokens: Number of tokens.
        sequences: Number of sequences, those of other processes included.
    """

    calls: list[Call]
    mask: Tensor | None
    tokens: int
    sequences: int


Build = Callable[[Sequence[int]], Mapping[str, FusedWeight]]


def tune_group(
    model: Model,
    unit: Unit | Sequence[Unit],
    windows: Tensor,
    build: Build,
    tuning: Tuning,
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
    label: str,
    group: Sequence[int] | None = None,
) -> RecoveryReport:
    """Remove a unit and tune its neighbours to make up for it.

    Teacher and inputs come from the current model (or the targets from the original one), before
    the removal; the student is the same run of blocks without the unit.
    Paper: Section III-D, Eq. 7-9, Algorithm 1 (decisions D5, D6, D11).

    Args:
        model: Loses the unit; its neighbours end with the tuned weights.
        unit: Still present, or several blocks that follow each other.
        windows: Token ids ``[sequences, length]`` int64; a ragged last batch is dropped.
        build: Makes the fused weights of a group, by parameter name. Called before the removal.
        tuning: How to tune.
        seed: Seed of the order of batches.
        checkpoint: For resuming.
        label: Names the work in messages.
        group: Dense indices of the blocks that are tuned; None: the neighbours (Eq. 4).

    Raises:
        ArchitectureError: The units do not follow each other.
        DataError: The windows do not fill one batch.
        NumericsError: A loss is NaN or infinite.
    """
    run = run_of(model, unit, label)
    group = group_of(model, run, tuning.group_size) if group is None else group
    ends = sorted({*group, *(one.index for one in run)})
    span = model.kept[model.position(ends[0]) : model.position(ends[-1]) + 1]
    student = [index for index in span if Unit("block", index) not in run]
    directory = checkpoint.path.parent if checkpoint else None
    found, states = _examples(model, span, student, windows, tuning, directory)
    model.hold(span)
    weights = build(_reached(group, dict(zip(student, found[0].calls, strict=True)), label))
    last = model.position(span[-1])
    spent = forward_flops(model, model.kept[: last + 1], tokens_in(windows), windows.shape[1])
    remove(model, *run)
    fit = fit_weights(
        model,
        weights,
        _loss(model, student, found, states, tuning.loss, label),
        len(found),
        tuning,
        seed=seed,
        checkpoint=checkpoint,
        label=label,
    )
    tokens = sum(example.tokens for example in found) * tuning.epochs * fit.attempts
    spent += training_flops(model, student, tokens, windows.shape[1])
    if tuning.fold == "at_end":
        model.fused.update(weights)
    return RecoveryReport(
        changed=list(weights),
        group=list(group),
        rows=fit.rows,
        trainable_parameters=sum(p.numel() for w in weights.values() for p in w.parameters()),
        tokens=tokens,
        optimizer_steps=fit.steps,
        flops=spent,
        undone=fit.undone,
        attempts=fit.attempts,
        compiled=fit.compiled,
    )


@torch.no_grad()
def _examples(
    model: Model,
    span: Sequence[int],
    student: Sequence[int],
    windows: Tensor,
    tuning: Tuning,
    directory: Path | None,
) -> tuple[list[Example], States]:
    """Record what enters the span and what should leave it, ``[batch, seq, hidden]`` each.

    Several processes record their own sequences of each batch.
    """
    parallel.check_batch(tuning.batch_size, "recovery.batch_size")
    whole = full_batches(windows, tuning.batch_size)
    first, last = model.position(span[0]), model.position(span[-1])
    original = None if tuning.teacher == "current" else load_original(model)
    found: list[Example] = []
    pieces = [batch[parallel.own(len(batch))] for batch in whole]
    width, size = model.text_config.hidden_size, model.dtype.itemsize
    total = 2 * sum(piece.numel() for piece in pieces) * width * size
    states = States(total, model.device, directory)
    seen = recordings(model, pieces, first, last)
    others = seen
    if original is not None:
        final = original.kept[-1]  # what leaves the last block stands for it, as the head reads it
        end = original.position(final if span[-1] == model.kept[-1] else span[-1])
        others = recordings(original, pieces, 0, end)
    with Pace("recording", len(pieces), "batch") as pace:
        for batch, recording in zip(whole, seen, strict=True):
            target = (recording if original is None else next(others)).hidden_out
            pairs = zip(span, recording.calls, strict=True)
            calls = [call for index, call in pairs if index in student]
            if found:
                calls = share_calls(calls, found[-1].calls)
            states.add(recording.hidden_in, target)
            found.append(Example(calls, mask_of(batch), tokens_in(batch), len(batch)))
            pace.advance()
    return found, states


def _reached(group: Sequence[int], calls: Mapping[int, Call], label: str) -> list[int]:
    """The group's blocks that the data run through; the others stay as they are (D24)."""
    blocks = [block for block in group if calls[block].hidden_key is not None]
    if not blocks:
        raise ArchitectureError(f"{label}: the data run through none of blocks {list(group)}")
    if len(blocks) < len(group):
        idle = ", ".join(str(block) for block in group if block not in blocks)
        logger.info("%s: the data do not run through blocks %s; they stay as they are", label, idle)
    return blocks


def _loss(
    model: Model,
    student: Sequence[int],
    found: Sequence[Example],
    states: States,
    name: str,
    label: str,
) -> Callable[[int], Tensor]:
    """Return the loss of a batch: of the hidden states that leave the group, in all processes.

    A loss may couple the sequences of a batch, so it is taken of all of them at once.
    """
    run = runner([model.block(index) for index in student], model.device, label)
    measure = masked(name)

    def loss_of(number: int) -> Tensor:
        example = found[number]
        hidden, target = states.get(number)
        states_out = (run(example.calls, hidden), target)
        student_out, wanted = (parallel.gathered(x, example.sequences) for x in states_out)
        return measure(student_out, wanted, example.mask)

    return loss_of
