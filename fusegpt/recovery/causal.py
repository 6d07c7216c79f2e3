"""Tuning by the loss of the next token of the whole pruned model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fusegpt.data.masked import IGNORED, next_tokens, predicted, tokens_in
from fusegpt.data.windows import full_batches
from fusegpt.errors import ArchitectureError
from fusegpt.models.flops import forward_flops, head_flops, training_flops
from fusegpt.models.model import Model
from fusegpt.models.structure.reached import reached
from fusegpt.models.surgery.removal import remove
from fusegpt.nn.fused import FusedWeight
from fusegpt.recovery.fit import fit_weights
from fusegpt.recovery.group import neighbours, run_of
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings import Tuning
from fusegpt.units import Unit

__all__ = ["batch_losses", "tune_by_next_token"]

AT_ONCE = 2
"""Sequences whose activations exist at one time; changes results by rounding only."""


def tune_by_next_token(
    model: Model,
    unit: Unit | Sequence[Unit],
    windows: Tensor,
    build: Callable[[Sequence[int]], Mapping[str, FusedWeight]],
    tuning: Tuning,
    *,
    seed: int,
    checkpoint: Checkpoint | None,
    label: str,
) -> RecoveryReport:
    """Remove a block, or a run, and train its neighbour alone so that the model predicts text.

    Args:
        model: Loses the block; its neighbour before (or, at the start, behind) ends trained.
        unit: Still present.
        windows: Token ids ``[sequences, length]`` int64; a ragged last batch is dropped.
        build: Makes the neighbour's fused weights.
        tuning: Epochs, batches and learning rate.
        seed: Seed of the order of batches.
        checkpoint: For resuming.
        label: Names the work in messages.

    Raises:
        ArchitectureError: The data do not run through the neighbour.
        DataError: The windows do not fill one batch.
        NumericsError: A loss is NaN or infinite.
    """
    pieces = full_batches(windows, tuning.batch_size)
    run = run_of(model, unit, label)
    gone = [one.index for one in run]
    (tuned,) = neighbours([x for x in model.kept if x not in gone[1:]], gone[0], 1)
    if tuned not in reached(model, windows[:1]):
        raise ArchitectureError(f"{label}: the data do not run through block {tuned}")
    weights = build([tuned])
    remove(model, *run)
    loss_of = batch_losses(model, pieces, AT_ONCE)
    given = (model, weights, loss_of, len(pieces), tuning)
    fit = fit_weights(*given, seed=seed, checkpoint=checkpoint, label=label)
    length = windows.shape[1]
    tokens = tuning.epochs * fit.attempts * sum(map(tokens_in, pieces))
    place = model.position(tuned)
    spent = forward_flops(model, model.kept[:place], tokens, length)
    spent += training_flops(model, [tuned], tokens, length)
    spent += training_flops(model, model.kept[place + 1 :], tokens, length, adapters=True)
    return RecoveryReport(
        changed=list(weights),
        group=[tuned],
        rows=fit.rows,
        trainable_parameters=sum(p.numel() for w in weights.values() for p in w.parameters()),
        tokens=tokens,
        optimizer_steps=fit.steps,
        flops=spent + 2 * head_flops(model, tokens),
        undone=fit.undone,
        attempts=fit.attempts,
        compiled=fit.compiled,
    )


def batch_losses(
    model: Model, pieces: Sequence[Tensor], micro_batch: int
) -> Callable[[int], Tensor]:
    """Return the loss of a batch; all but its last part is propagated back at once.

    Args:
        model: In eval mode.
        pieces: Batches of token ids ``[batch, seq]``; every prediction that counts counts alike.
        micro_batch: Sequences of a part.
    """

    def loss_of(number: int) -> Tensor:
        parts = pieces[number].split(micro_batch)
        done = torch.zeros((), device=model.device)
        for place, part in enumerate(parts):
            share = _next_token_loss(model, part) * (predicted(part) / predicted(pieces[number]))
            if place + 1 < len(parts) and torch.is_grad_enabled():
                share.backward()
                share = share.detach()
            done = done + share
        return done

    return loss_of


def _next_token_loss(model: Model, ids: Tensor) -> Tensor:
    inputs = model.inputs(ids)
    logits = model.module(**inputs, use_cache=False).logits[:, :-1].flatten(0, 1)
    targets = next_tokens(ids).to(logits.device).flatten()
    return nn.functional.cross_entropy(logits.float(), targets, ignore_index=IGNORED)
