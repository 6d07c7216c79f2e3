"""The recovery after the last removal, for the methods that work once on the whole model."""

from __future__ import annotations

import logging

from torch import Tensor

from fusegpt.errors import DataError
from fusegpt.models.checkpoints.storage import settle
from fusegpt.models.model import Model
from fusegpt.pruning.recipe import Recipe
from fusegpt.pruning.suits import check_masks
from fusegpt.recovery import RECOVERIES
from fusegpt.recovery.resume import Checkpoint
from fusegpt.results.records import SPENT, Finish, Training
from fusegpt.runtime import Timer, peak_memory_gib

__all__ = ["finish"]

logger = logging.getLogger(__name__)


def finish(
    model: Model, recipe: Recipe, windows: Tensor | None, *, checkpoint: Checkpoint | None = None
) -> Finish:
    """Recover the model as pruned to the end.

    Args:
        model: Changed in place; nothing is removed. Its weights end as they will be stored.
        recipe: Its recovery works at the end.
        windows: Fine-tuning token ids ``[sequences, length]`` int64.
        checkpoint: For resuming.

    Returns:
        A record: method, losses, trainable parameters, tokens, steps, FLOPs, seconds, memory; and
        ``training``, a row per optimiser step.

    Raises:
        DataError: There are no windows.
        NumericsError: A loss is NaN or infinite.
    """
    assert recipe.recovers_at_end, recipe.method
    if windows is None:
        raise DataError(f"{recipe.method}: needs fine-tuning windows; give --finetune")
    check_masks(recipe, windows)
    with Timer() as timer:
        recover = RECOVERIES[recipe.method].load()
        report = recover(model, windows, recipe.recovery, seed=recipe.seed, checkpoint=checkpoint)
        settle(model, recipe.checkpoint_dtype)
    training = Training.model_validate({"rows": report.rows})
    logger.info(
        "%s of %d blocks: loss %.4g -> %.4g, %.0f s",
        *(recipe.method, len(model.kept), training.first_loss, training.last_loss, timer.seconds),
    )
    return Finish.model_validate(
        {
            "method": recipe.method,
            "first_loss": training.first_loss,
            "last_loss": training.last_loss,
            **{name: getattr(report, name) for name in SPENT},
            **report.mishaps,
            "seconds": round(timer.seconds, 3),
            "memory_gib": round(peak_memory_gib(), 3),
            "training": training.rows,
        }
    )
