"""Full and LoRA: the whole pruned model learns to predict text."""

from __future__ import annotations

from fusegpt.data.streamed import Streamed
from fusegpt.models.model import Model
from fusegpt.recovery.healing.answers import AnswersFile
from fusegpt.recovery.healing.heal import heal
from fusegpt.recovery.healing.objective import Objective
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings.finish import FinishSettings, Full

__all__ = ["next_token"]


def next_token(
    model: Model,
    data: Streamed,
    settings: FinishSettings = Full(),
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
    answers: AnswersFile | None = None,
) -> RecoveryReport:
    """Train weights, or low-rank updates that are merged, by the mean loss of the next token.

    Args:
        model: Its weights change; its blocks stay.
        data: Windows of text.
        settings: What is trained, how long and how fast.
        seed: Seed of low-rank factors and of the order of batches.
        checkpoint: For resuming.
        answers: Not used; nobody teaches.
    """
    label = f"finish ({settings.trains}) of the pruned model"
    return heal(model, data, settings, Objective(), seed=seed, checkpoint=checkpoint, label=label)
