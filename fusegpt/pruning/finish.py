"""What works once, on the model as pruned to the end: a finish, or the recovery of a recipe."""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from fusegpt.data.streamed import Streamed
from fusegpt.errors import ConfigError, DataError
from fusegpt.models.checkpoints.load import load
from fusegpt.models.checkpoints.storage import settle
from fusegpt.models.model import Model
from fusegpt.pruning.recipe import Recipe
from fusegpt.pruning.suits import check_masks
from fusegpt.recovery import FINISHES, RECOVERIES
from fusegpt.recovery.healing.answers import AnswersFile, answer_windows, read_answers
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings.finish import Distill
from fusegpt.results import layout
from fusegpt.results.history import read_history
from fusegpt.results.records import SPENT, Finish, Training
from fusegpt.runtime import Timer, peak_memory_gib

__all__ = ["finish", "taught"]

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
    with Timer() as timer:
        if recipe.finish is None:
            assert not isinstance(windows, Streamed), method
            check_masks(recipe, windows)
            report = RECOVERIES[method].load()(model, windows, recipe.recovery, **given)
        else:
            train = FINISHES[method].load()
            report = train(model, windows, recipe.finish, answers=answers, **given)
        settle(model, recipe.checkpoint_dtype)
    training = Training.model_validate({"rows": report.rows})
    logger.info(
        "%s of %d blocks: loss %.4g -> %.4g, %.0f s",
        *(method, len(model.kept), training.first_loss, training.last_loss, timer.seconds),
    )
    return Finish.model_validate(
        {
            "method": method,
            "first_loss": training.first_loss,
            "last_loss": training.last_loss,
            **{name: getattr(report, name) for name in SPENT},
            **report.mishaps,
            "seconds": round(timer.seconds, 3),
            "memory_gib": round(peak_memory_gib(), 3),
            "training": training.rows,
        }
    )


@contextmanager
def taught(
    path: Path,
    recipe: Recipe,
    windows: Path,
    output: Path,
    answers: Path | None = None,
    teacher: Path | None = None,
    *,
    device: str,
) -> Iterator[AnswersFile | None]:
    """Give a finish the answers that it learns from, made here if there are none yet.

    Args:
        path: A step's manifest, or the directory of a model.
        recipe: It has a finish.
        windows: The file that is answered.
        output: What is made here lies beside it, and is gone in the end.
        answers: What ``fusegpt answers`` wrote; None: the teacher answers now.
        teacher: Its directory; None: the dense model.
        device: Where the teacher works.

    Yields:
        The answers; None for a finish without a teacher.
    """
    finish, name = recipe.finish, f"recipes.{recipe.name}.finish"
    if not isinstance(finish, Distill):
        if answers is not None or teacher is not None:
            raise ConfigError(f"{name}: learns from no teacher; leave out --answers and --teacher")
        yield None
        return
    how = (finish.top_k, finish.temperature)
    if answers is not None:
        yield read_answers(answers, windows, *how)
        return
    if teacher is None and finish.teacher is not None:
        raise ConfigError(
            f"{name}.teacher: is {finish.teacher!r}; give its directory with --teacher, or what it"
            " says with --answers"
        )
    folder = output.with_name(f"{output.name}.tmp-{uuid.uuid4().hex}")
    try:
        model = load(teacher or _dense(path), dtype=recipe.dtype, device=device)
        answer_windows(model, windows, folder, top_k=how[0], temperature=how[1])
        del model
        yield read_answers(folder, windows, *how)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _dense(path: Path) -> Path:
    manifest = path if path.suffix == ".json" else path / layout.MANIFEST
    return read_history(manifest).source.parent if manifest.is_file() else path
