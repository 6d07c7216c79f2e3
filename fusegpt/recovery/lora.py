"""LoRA on the whole pruned model, by the loss of the next token, after the last removal."""

from __future__ import annotations

from torch import Tensor

from fusegpt.data.masked import tokens_in
from fusegpt.data.windows import full_batches
from fusegpt.models.flops import head_flops, training_flops
from fusegpt.models.model import Model
from fusegpt.recovery.adapted import trained_updates
from fusegpt.recovery.causal import batch_losses
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings.whole import Lora
from fusegpt.recovery.training import Schedule, has_risen, total_loss, train

__all__ = ["lora"]


def lora(
    model: Model,
    windows: Tensor,
    settings: Lora = Lora(),
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> RecoveryReport:
    """Train a low-rank update of every linear layer of every block, and merge it.

    W' = W + (alpha / rank)·B·A by PEFT, with the mean loss of the next token, as in
    Shortened-LLaMA; there with dropout 0.05 and a warm-up of 100 steps (decision D30).

    Args:
        model: Ends with the update merged into plain weights, or after an error as it was; its
            blocks stay.
        windows: Token ids ``[sequences, length]`` int64; a ragged last batch is dropped.
        settings: Rank and weight of the update, and how it is trained.
        seed: Seed of the factors and of the order of batches.
        checkpoint: For resuming.

    Raises:
        DataError: The windows do not fill one batch.
        NumericsError: A loss is NaN or infinite.
    """
    pieces = full_batches(windows, settings.batch_size)
    loss_of = batch_losses(model, pieces, settings.micro_batch_size)
    schedule = Schedule(settings.epochs, len(pieces), settings.shuffle, seed)
    label = "LoRA of the pruned model"
    with trained_updates(model, settings.lora_rank, settings.lora_alpha, seed) as training:
        before = total_loss(loss_of, range(len(pieces)))
        rows = train(
            [(training.parameters, settings.learning_rate)],
            loss_of,
            schedule,
            checkpoint=checkpoint,
            label=label,
        )
        training.undo = has_risen(label, before, total_loss(loss_of, range(len(pieces))))
    tokens = settings.epochs * sum(map(tokens_in, pieces))
    spent = training_flops(model, model.kept, tokens, windows.shape[1], adapters=True)
    return RecoveryReport(
        group=training.blocks,
        rows=rows,
        trainable_parameters=sum(p.numel() for p in training.parameters),
        tokens=tokens,
        optimizer_steps=schedule.steps,
        flops=spent + 2 * head_flops(model, tokens),
        undone=training.undo,
    )
