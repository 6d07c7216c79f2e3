"""Distillation: the whole pruned model learns to answer as the dense model does."""

from __future__ import annotations

from dataclasses import replace

from fusegpt.data.streamed import Streamed
from fusegpt.errors import DataError
from fusegpt.models.checkpoints.load import load_original
from fusegpt.models.flops import forward_flops
from fusegpt.models.model import Model
from fusegpt.recovery.healing.answers import AnswersFile
from fusegpt.recovery.healing.heal import heal
from fusegpt.recovery.healing.objective import Objective
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings.finish import Distill

__all__ = ["check_vocabulary", "distill"]


def distill(
    model: Model,
    data: Streamed,
    settings: Distill = Distill(),
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
    answers: AnswersFile | None = None,
) -> RecoveryReport:
    """Minimise the divergence from a teacher's answers, at every position of every window.

    (1 - a)·T²·KL(teacher ‖ student) + a·next token + b·distance of hidden states, with the
    settings a = ``next_token``, b = ``hidden``, T = ``temperature`` (decision D48).

    Args:
        model: Its weights change; its blocks stay.
        data: Windows of text.
        settings: What is trained, on what, how long and how fast.
        seed: Seed of low-rank factors and of the order of batches.
        checkpoint: For resuming.
        answers: What the teacher says of these windows.

    Returns:
        A report; its FLOPs include the teacher's, once for each window.

    Raises:
        DataError: There are no answers, or those of a teacher with another vocabulary.
    """
    if answers is None:
        raise DataError("finish distill: needs a teacher's answers; give --answers")
    check_vocabulary(int(model.text_config.vocab_size), answers.record.vocab)
    dense = load_original(model) if settings.hidden else None
    objective = Objective(
        answers, settings.temperature, settings.next_token, settings.hidden, dense
    )
    label = "distillation of the pruned model"
    report = heal(model, data, settings, objective, seed=seed, checkpoint=checkpoint, label=label)
    spent = report.flops + answers.record.flops
    if dense is not None:
        spent += forward_flops(dense, dense.kept, report.tokens, data.length)
    return replace(report, flops=spent)


def check_vocabulary(own: int, teachers: int) -> None:
    """Refuse a teacher with more or fewer tokens than the model.

    Raises:
        DataError: It is one.
    """
    if own != teachers:
        raise DataError(
            f"finish distill: the teacher must have the model's vocabulary of {own} tokens, has"
            f" {teachers}; choose another teacher"
        )
