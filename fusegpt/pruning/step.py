"""One step of Algorithm 1 after the scoring: take out the least important unit, and recover."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import Tensor

from fusegpt.errors import DataError
from fusegpt.models.checkpoints.storage import settle
from fusegpt.models.model import Model
from fusegpt.pruning.recipe import Recipe
from fusegpt.pruning.rerank import rerank
from fusegpt.pruning.suits import check_masks
from fusegpt.recovery import RECOVERIES
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings.whole import NoRecovery
from fusegpt.results.records import Removal, Scores
from fusegpt.results.recovered import SPENT, Training
from fusegpt.runtime import Timer, peak_memory_gib
from fusegpt.units import Unit

__all__ = ["fuse_step"]

logger = logging.getLogger(__name__)


def fuse_step(
    model: Model,
    recipe: Recipe,
    scores: Scores,
    windows: Tensor | None,
    *,
    checkpoint: Checkpoint | None = None,
) -> tuple[Removal, RecoveryReport]:
    """Remove the selected unit, or the selected run of them, and recover.

    Args:
        model: Loses them; the recovery changes its neighbours, whose weights end as they will be
            stored.
        recipe: Names the recovery and its settings.
        scores: What ``score_step`` returned for this step.
        windows: Fine-tuning token ids ``[sequences, length]`` int64; None when nothing trains.
        checkpoint: For resuming inside the step.

    Returns:
        What the step did, and what the recovery did.

    Raises:
        DataError: The recovery trains and there are no windows.
        NumericsError: A loss is NaN or infinite.
    """
    units, later = scores.chosen, recipe.recovers_at_end
    recover = RECOVERIES["none" if later else recipe.method].load()
    settings = NoRecovery() if later else recipe.recovery
    if recipe.needs_windows and not later:
        if windows is None:
            raise DataError(f"{recipe.method}: needs fine-tuning windows; give --finetune")
        check_masks(recipe, windows)
    tried = None
    if checkpoint is not None:
        checkpoint.begin()
    with Timer() as timer:
        if recipe.rerank is not None and recipe.rerank.candidates > 1:
            assert windows is not None, recipe.method
            tried = rerank(model, recipe, scores, windows, checkpoint)
            units = [tried.chosen]
        gone = units[0] if len(units) == 1 else units
        given = {"seed": recipe.seed, "checkpoint": checkpoint}
        report = recover(model, gone, windows, settings, **given)
        settle(model, recipe.checkpoint_dtype, report.changed)
    record = _record(model, units, scores, report)
    if tried is not None:
        trials = {name: getattr(record, name) + getattr(tried, name) for name in SPENT[1:]}
        record = record.plus(**trials, rerank=tried)
    seconds = timer.seconds + (checkpoint.before if checkpoint else 0.0)
    record = record.plus(seconds=round(seconds, 3), memory_gib=round(peak_memory_gib(), 3))
    logger.info("%s", _line(record, recipe, model))
    return record, report


def _record(model: Model, units: Sequence[Unit], scores: Scores, report: RecoveryReport) -> Removal:
    score = {row.unit: row.score for row in scores.units}
    own = score.pop(units[0])
    training = Training.model_validate({"rows": report.rows})
    return Removal.model_validate(
        {
            "step": len(model.removed),
            "unit": units[0],
            **({"units": list(units)} if len(units) > 1 else {}),
            "score": own,
            "next_score": min(score.values(), default=None),
            "removed": list(model.removed),
            "kept": list(model.kept),
            "parameters": model.module.num_parameters(),
            "group": report.group,
            "fused_into": report.fused_into,
            "first_loss": training.first_loss,
            "last_loss": training.last_loss,
            **{name: getattr(report, name) for name in SPENT},
            **report.mishaps,
        }
    )


def _line(record: Removal, recipe: Recipe, model: Model) -> str:
    units, following = record.gone, record.next_score
    text = (
        f"step {record.step}: removed {', '.join(map(str, units))}"
        f" ({recipe.metric} {record.score:.4g}"
        f"{'' if following is None else f', next {following:.4g}'}),"
        f" {len(model.units(recipe.granularity))} left"
    )
    if record.group:
        kind = "block" if units[0].kind == "block" else f"the {units[0].kind} of block"
        places = ", ".join(map(str, record.group))
        text += (
            f"; {recipe.method} of {kind}s {places}: loss {record.first_loss:.4g} ->"
            f" {record.last_loss:.4g}{' (undone)' if record.undone else ''},"
            f" {record.seconds:.0f} s,"
            f" peak {record.memory_gib:.1f} GiB"
        )
    return text
