"""One step of Algorithm 1: score every remaining unit, take out the least important, recover."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fusegpt.data.masked import unpadded
from fusegpt.errors import DataError
from fusegpt.importance import METRICS
from fusegpt.models.checkpoints.load import load_original
from fusegpt.models.checkpoints.storage import settle
from fusegpt.models.model import Model
from fusegpt.models.structure.passes import counting_passes
from fusegpt.pruning.recipe import Recipe
from fusegpt.pruning.rerank import rerank
from fusegpt.pruning.select import candidates, check_run, select, select_run
from fusegpt.pruning.suits import check_masks, check_suits
from fusegpt.pruning.whole_periods import runs_that_fit, units_that_fit
from fusegpt.recovery import RECOVERIES
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings.whole import NoRecovery
from fusegpt.results.records import SPENT, Removal, ScoredUnit, Scores, Training
from fusegpt.runtime import Timer, peak_memory_gib
from fusegpt.units import Unit
from fusegpt.work import Scoring

__all__ = ["fuse_step", "score_step"]

logger = logging.getLogger(__name__)


def score_step(
    model: Model,
    recipe: Recipe,
    windows: Tensor,
    earlier: Scores | None = None,
    count: int = 1,
) -> Scores:
    """Score every remaining unit that may go.

    Args:
        model: As pruned so far. Unchanged.
        recipe: Names the metric, its settings, the selection and the protected units.
        windows: Calibration token ids ``[sequences, length]`` int64.
        earlier: What this function returned for the first step; a ``one_shot`` selection scores
            only once and keeps those scores.
        count: Units that a ``contiguous`` selection takes at once; every other takes one.

    Returns:
        A record: metric, settings, ``units`` (granularity, index, score, high = keep) and the
        ``selected`` unit, seconds and peak memory. With a contiguous selection, each score is that
        of the run that starts at its unit, and ``selected_units`` are the whole chosen run.

    Raises:
        ArchitectureError: A contiguous selection, and the units are no neighbours; or, before the
            first step, the recovery cannot work on this model.
        ConfigError: Too many units are protected.
        NumericsError: A score is NaN or infinite.
    """
    if not model.removed:
        check_suits(model, recipe, windows)
    units = candidates(model, recipe, windows)
    contiguous = recipe.selection == "contiguous"
    run = count if contiguous else 1
    if contiguous:
        check_run(model, recipe, units, run)
        runs = [units[start : start + run] for start in range(len(units) - run + 1)]
        starts = runs_that_fit(model, recipe, runs)
    else:
        fitting = units_that_fit(model, recipe, units)
    with Timer() as timer:
        if recipe.selection == "one_shot" and earlier is not None:
            known = {row.unit: row for row in earlier.units}
            rows = [known[unit] for unit in units if unit in known]
        else:
            rows = _rows(model, recipe, windows, units, run)
    if contiguous:
        chosen = select_run(units, [row.score for row in rows], run, model, starts)
    else:
        rows = [row for row in rows if row.unit in fitting]
        chosen = [select([row.unit for row in rows], [row.score for row in rows])]
    return Scores.model_validate(
        {
            "kind": "scores",
            "step": len(model.removed) + run,
            "metric": recipe.metric,
            "settings": recipe.importance.own(),
            "units": rows,
            "selected": chosen[0],
            **({"selected_units": chosen} if contiguous else {}),
            "seconds": round(timer.seconds, 3),
            "memory_gib": round(peak_memory_gib(), 3),
        }
    )


def _rows(
    model: Model, recipe: Recipe, windows: Tensor, units: Sequence[Unit], run: int
) -> list[ScoredUnit]:
    """Score now: one row a unit, or a run of them, with what else the metric says about it."""
    metric = METRICS[recipe.metric]
    details: dict[str, Tensor] = {}
    known: dict[str, Any] = {"seed": recipe.seed, "run": run, "details": details}
    if recipe.importance.reference == "original":
        known["original"] = load_original(model)
    given = {name: value for name, value in known.items() if name in recipe.importance.takes}
    pieces = unpadded(windows, recipe.calibration.batch_size)
    total = _passes(model, recipe, units, len(windows))
    with counting_passes(model, recipe.metric, total):
        scores = metric.load()(model, pieces, units, recipe.importance, **given).tolist()
    more = {
        name: [value if math.isfinite(value) else None for value in values.tolist()]
        for name, values in details.items()
    }
    return [
        ScoredUnit.model_validate(
            {**unit.to_json(), "score": score, **{name: of[place] for name, of in more.items()}}
        )
        for place, (unit, score) in enumerate(zip(units[: len(scores)], scores, strict=True))
    ]


def _passes(model: Model, recipe: Recipe, units: Sequence[Unit], windows: int) -> int | None:
    """How many block forward passes the metric makes of all windows; None: it does not say."""
    blocks, sublayers = len(model.kept), recipe.granularity != "block"
    places = [model.position(unit.index) for unit in units]
    without_each = blocks + sum(blocks - place - (not sublayers) for place in places)
    counts = (model.num_blocks, blocks, len(units), places[0], without_each, sublayers)
    passes = recipe.importance.passes(Scoring(*counts))
    return None if passes is None else round(passes.forward * windows)


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
    record = record.plus(seconds=round(timer.seconds, 3), memory_gib=round(peak_memory_gib(), 3))
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
