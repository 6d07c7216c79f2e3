"""Algorithm 1 in one process: the same two functions that the workflow's steps call."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fusegpt.config import Reuse
from fusegpt.data.masked import unpadded
from fusegpt.data.streamed import Streamed
from fusegpt.models.checkpoints.storage import SOURCE
from fusegpt.models.model import Model, split_name
from fusegpt.models.structure.kept_states import KeptStates, keeps
from fusegpt.pruning.finish import finish
from fusegpt.pruning.position import Position, PrunedStep
from fusegpt.pruning.recipe import Recipe
from fusegpt.pruning.scoring import score_step
from fusegpt.pruning.step import fuse_step
from fusegpt.pruning.whole_periods import check_count
from fusegpt.recovery.healing.answers import AnswersFile

__all__ = ["PrunedStep", "prune"]


def prune(
    model: Model,
    recipe: Recipe,
    count: int,
    calibration: Tensor,
    finetune: Tensor | None = None,
    finish_windows: Streamed | None = None,
    answers: AnswersFile | None = None,
    position: Position | None = None,
    reuse: Reuse = "auto",
    keeps: Callable[[Model], bool] | None = None,
) -> list[PrunedStep]:
    """Remove ``count`` units, one after the other; a contiguous selection takes them at once.

    On the CPU, with as many threads, the weights are those of the workflow to the last bit. A
    scoring goes on from the hidden states of the one before it, where a removal and its recovery
    left them as they were (decision D60).

    Args:
        model: Pruned in place.
        recipe: The method and its settings.
        count: Units to remove.
        calibration: Token ids to score on, ``[sequences, length]`` int64.
        finetune: Token ids to recover on; not needed when nothing trains.
        finish_windows: Windows for the recipe's finish, if it has one.
        answers: What the finish's teacher says of them.
        position: Keeps finished steps on disk, and those of a run that was stopped are taken over.
        reuse: ``auto``: hidden states are kept for the next scoring where memory has room for them.
            ``never``: each scoring begins at the first block. Scores are the same.
        keeps: Asked before each step but the first whether another one may follow; what comes at
            the end is left out. None: ``count`` units go.

    Returns:
        One record per step: the unit, its score, the group, losses, seconds. The last one has
        ``finish`` when there is one, or the recovery comes at the end.
    """
    recipe.that_removes()
    gone = model.num_blocks - len(model.kept)
    check_count(recipe, model.text_config, gone + count, model.num_blocks)
    steps = [] if position is None else position.resume(model, count)
    at_once = count if recipe.selection == "contiguous" else 1
    kept = None
    if reuse == "auto" and count - sum(len(step.gone) for step in steps) > 1:
        kept = _kept_states(model, recipe, calibration)
    for _ in range(sum(len(step.gone) for step in steps), count, max(at_once, 1)):
        if keeps is not None and steps and not keeps(model):
            break
        first = steps[0].scores if steps else None
        scores = score_step(model, recipe, calibration, first, at_once, kept)
        if kept is not None and recipe.rerank is None:  # what no scoring can go on from
            kept.cut(min(model.position(unit.index) for unit in scores.chosen))
        checkpoint = None if position is None else position.checkpoint()
        record, report = fuse_step(model, recipe, scores, finetune, checkpoint=checkpoint)
        if kept is not None:
            touched = [split_name(name)[0] for name in report.changed]
            touched += [unit.index for unit in record.gone]
            kept.cut(sum(index < min(touched) for index in model.kept))
        more = {"scores": scores, "training": report.rows}
        steps.append(PrunedStep.model_validate({**record.to_json(), **more}))
        if position is not None:
            position.add(model, steps[-1], report)
    del kept
    if steps and recipe.trains_at_end and keeps is None:
        windows = finetune if recipe.finish is None else finish_windows
        model.fused.clear()
        checkpoint = None if position is None else position.checkpoint("finish")
        done = finish(model, recipe, windows, checkpoint=checkpoint, answers=answers)
        steps[-1] = steps[-1].plus(finish=done)
    return steps


def _kept_states(model: Model, recipe: Recipe, windows: Tensor) -> KeptStates | None:
    """A place for the states of scorings, where the next one can go on from them."""
    able = "kept_states" in recipe.importance.takes and recipe.importance.first_share == 1
    if not able or recipe.selection != "iterative" or recipe.checkpoint_dtype != SOURCE:
        return None
    pieces = unpadded(windows, recipe.calibration.batch_size)
    return keeps(model, windows.numel(), pieces[0], model.units(recipe.granularity))
