"""One step of Algorithm 1: score every living unit, take out the least important, recover."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fusegpt.data.windows import batches
from fusegpt.errors import ConfigError, DataError, NumericsError
from fusegpt.importance import METRICS
from fusegpt.models.model import Model
from fusegpt.models.reached import reached
from fusegpt.models.units import Unit
from fusegpt.pruning.recipe import Recipe
from fusegpt.recovery import RECOVERIES
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.runtime import Timer, peak_memory_gib

__all__ = ["fuse_step", "score_step", "select"]

logger = logging.getLogger(__name__)


def score_step(
    model: Model, recipe: Recipe, windows: Tensor, earlier: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Score every living unit that may go.

    Args:
        model: As pruned so far. Unchanged.
        recipe: Names the metric, its settings, the selection and the protected units.
        windows: Calibration token ids ``[sequences, length]`` int64.
        earlier: What this function returned for the first step; a ``one_shot`` selection scores
            only once and keeps those scores.

    Returns:
        A record: metric, settings, ``units`` (granularity, index, score, high = keep) and the
        ``selected`` unit, seconds and peak memory.

    Raises:
        ConfigError: Every unit is protected.
        NumericsError: A score is NaN or infinite.
    """
    units = _candidates(model, recipe, windows)
    with Timer() as timer:
        if recipe.selection == "one_shot" and earlier is not None:
            known = {Unit.from_json(row): row["score"] for row in earlier["units"]}
            scores = [known[unit] for unit in units]
        else:
            metric = METRICS[recipe.metric].load()
            pieces = batches(windows, recipe.calibration.batch_size)
            scores = metric(model, pieces, units, **recipe.metric_settings()).tolist()
    chosen = select(units, scores)
    return {
        "kind": "scores",
        "step": len(model.removed) + 1,
        "metric": recipe.metric,
        "settings": recipe.metric_settings(),
        "units": [
            {**unit.to_json(), "score": score} for unit, score in zip(units, scores, strict=True)
        ],
        "selected": chosen.to_json(),
        "seconds": round(timer.seconds, 3),
        "memory_gib": round(peak_memory_gib(), 3),
    }


def select(units: Sequence[Unit], scores: Sequence[float]) -> Unit:
    """Return the unit with the lowest score; among equals the first.

    Raises:
        NumericsError: A score is NaN; the message names the unit.
    """
    for unit, score in zip(units, scores, strict=True):
        if score != score:
            raise NumericsError(f"score of {unit} is nan")
    return min(zip(scores, units, strict=True))[1]


def fuse_step(
    model: Model,
    recipe: Recipe,
    scores: Mapping[str, Any],
    windows: Tensor | None,
    *,
    checkpoint: Checkpoint | None = None,
) -> tuple[dict[str, Any], RecoveryReport]:
    """Remove the selected unit and recover.

    Args:
        model: Loses the unit; the recovery changes its neighbours.
        recipe: Names the recovery and its settings.
        scores: What ``score_step`` returned for this step.
        windows: Fine-tuning token ids ``[sequences, length]`` int64; None when nothing trains.
        checkpoint: For resuming inside the step.

    Returns:
        The step's record for its manifest, and what the recovery did.

    Raises:
        DataError: The recovery trains and there are no windows.
        NumericsError: A loss is NaN or infinite.
    """
    unit = Unit.from_json(scores["selected"])
    recovery = RECOVERIES[recipe.method]
    settings: dict[str, Any] = {"seed": recipe.seed, **recipe.recovery_settings()}
    if recovery.trains:
        if windows is None:
            raise DataError(f"{recipe.method}: needs fine-tuning windows; give --finetune")
        settings["checkpoint"] = checkpoint
    with Timer() as timer:
        report = recovery.load()(model, unit, windows, **settings)
    record = _record(model, unit, scores, report)
    record["seconds"] = round(timer.seconds, 3)
    record["memory_gib"] = round(peak_memory_gib(), 3)
    logger.info("%s", _line(record, recipe, model))
    return record, report


def _candidates(model: Model, recipe: Recipe, windows: Tensor) -> list[Unit]:
    """Units that are not protected and that the data run through (decisions D4, D24)."""
    first, last = recipe.importance["protect_first"], recipe.importance["protect_last"]
    units = model.units()
    seen = reached(model, windows[:1])
    allowed = [unit for unit in units[first : len(units) - last] if unit.index in seen]
    if not allowed:
        raise ConfigError(
            f"recipes.{recipe.name}.importance: protect_first {first} and protect_last {last}"
            f" leave none of {len(units)} blocks to remove"
        )
    return allowed


def _record(
    model: Model, unit: Unit, scores: Mapping[str, Any], report: RecoveryReport
) -> dict[str, Any]:
    ordered = sorted(row["score"] for row in scores["units"])
    losses = [row["loss"] for row in report.rows]
    return {
        "step": len(model.removed),
        "unit": unit.to_json(),
        "score": ordered[0],
        "next_score": ordered[1] if len(ordered) > 1 else None,
        "removed": [gone.to_json() for gone in model.removed],
        "kept": list(model.kept),
        "group": report.group,
        "fused_into": report.fused_into,
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "trainable_parameters": report.trainable_parameters,
        "tokens": report.tokens,
        "optimizer_steps": report.optimizer_steps,
        "flops": report.flops,
    }


def _line(record: Mapping[str, Any], recipe: Recipe, model: Model) -> str:
    unit = Unit.from_json(record["unit"])
    following = record["next_score"]
    text = (
        f"step {record['step']}: removed {unit} ({recipe.metric} {record['score']:.4g}"
        f"{'' if following is None else f', next {following:.4g}'}), {len(model.kept)} left"
    )
    if record["group"]:
        blocks = ", ".join(map(str, record["group"]))
        text += (
            f"; {recipe.method} of blocks {blocks}: loss {record['first_loss']:.4g} ->"
            f" {record['last_loss']:.4g}, {record['seconds']:.0f} s,"
            f" peak {record['memory_gib']:.1f} GiB"
        )
    return text
