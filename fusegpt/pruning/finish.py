"""What works once, on the model as pruned to the end: a finish, or the recovery of a recipe."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from fusegpt.data.streamed import Streamed
from fusegpt.errors import DataError
from fusegpt.models.checkpoints.storage import settle
from fusegpt.models.model import Model
from fusegpt.pruning.recipe import Recipe
from fusegpt.pruning.suits import check_masks
from fusegpt.recovery import FINISHES, RECOVERIES
from fusegpt.recovery.healing.answers import AnswersFile
from fusegpt.recovery.resume import Checkpoint
from fusegpt.results.recovered import SPENT, Finish, Training
from fusegpt.runtime import Timer, peak_memory_gib

__all__ = ["finish"]

logger = logging.getLogger(__name__)


def finish(
    model: Model,
    recipe: Recipe,
    windows: Tensor | Streamed | None,
    *,
    answers: AnswersFile | None = None,
    checkpoint: Checkpoint | None = None,
) -> Finish:
    """Train the model as pruned to the end.

    Args:
        model: Changed in place; nothing is removed. Its weights end as they will be stored.
        recipe: It has a finish, or its recovery works at the end.
        windows: For the finish, or fine-tuning token ids ``[sequences, length]`` int64.
        answers: What the finish's teacher says of them.
        checkpoint: For resuming.

    Returns:
        A record: method, losses, trainable parameters, tokens, steps, FLOPs, seconds, memory; and
        ``training``, a row per optimiser step.

    Raises:
        DataError: There are no windows.
        NumericsError: A loss is NaN or infinite.
    """
    assert recipe.trains_at_end, recipe.method
    method = recipe.finish_method or recipe.method
    if windows is None:
        raise DataError(f"{method}: needs windows to train on; give --finetune")
    given: dict[str, Any] = {"seed": recipe.seed, "checkpoint": checkpoint}
    if checkpoint is not None:
        checkpoint.begin()
    with Timer() as timer:
        if recipe.finish is None:
            assert not isinstance(windows, Streamed), method
            check_masks(recipe, windows)
            report = RECOVERIES[method].load()(model, windows, recipe.recovery, **given)
        else:
            train = FINISHES[method].load()
            report = train(model, windows, recipe.finish, answers=answers, **given)
        settle(model, recipe.checkpoint_dtype)
    seconds = timer.seconds + (checkpoint.before if checkpoint else 0.0)
    training = Training.model_validate({"rows": report.rows})
    logger.info(
        "%s of %d blocks: loss %.4g -> %.4g%s, %.0f s",
        *(method, len(model.kept), training.first_loss, training.last_loss),
        *(" (undone)" if report.undone else "", seconds),
    )
    return Finish.model_validate(
        {
            "method": method,
            "first_loss": training.first_loss,
            "last_loss": training.last_loss,
            **{name: getattr(report, name) for name in SPENT},
            **report.mishaps,
            "seconds": round(seconds, 3),
            "memory_gib": round(peak_memory_gib(), 3),
            "training": training.rows,
        }
    )
