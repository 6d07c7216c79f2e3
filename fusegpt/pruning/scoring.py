"""Scoring as a step does it: every remaining unit, at once or in shards of the windows."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fusegpt.data.masked import unpadded
from fusegpt.errors import ConfigError
from fusegpt.importance import METRICS
from fusegpt.importance.checks import finite
from fusegpt.importance.halving import halve
from fusegpt.importance.sums import Sums
from fusegpt.models.checkpoints.load import load_original
from fusegpt.models.model import Model
from fusegpt.models.structure.kept_states import KeptStates
from fusegpt.models.structure.passes import counting_passes
from fusegpt.pruning.recipe import Recipe
from fusegpt.pruning.select import able_runs, candidates, check_run, select, select_run
from fusegpt.pruning.suits import check_suits
from fusegpt.pruning.whole_periods import runs_that_fit, units_that_fit
from fusegpt.results.records import ScoredUnit, Scores
from fusegpt.results.shards import PartialScores, Shard
from fusegpt.runtime import Timer, peak_memory_gib
from fusegpt.units import Unit
from fusegpt.work import Scoring

logger = logging.getLogger(__name__)

__all__ = ["add_up", "check_shards", "score_shard", "score_step"]


@dataclass(frozen=True)
class Choice:
    """What a round of scoring looks at, and what it may choose.

    Attributes:
        units: Remaining units that are scored.
        able: Places in ``units`` of those that may go, or of the first ones of runs that may.
        run: Number of units that go at once.
    """

    units: list[Unit]
    able: list[int]
    run: int


def score_step(
    model: Model,
    recipe: Recipe,
    windows: Tensor,
    earlier: Scores | None = None,
    count: int = 1,
    kept_states: KeptStates | None = None,
) -> Scores:
    """Score every remaining unit that may go.

    Args:
        model: As pruned so far. Unchanged.
        recipe: Names the metric, its settings, the selection and the protected units.
        windows: Calibration token ids ``[sequences, length]`` int64.
        earlier: What this function returned for the first step; a ``one_shot`` selection scores
            only once and keeps those scores.
        count: Units that a ``contiguous`` selection takes at once; every other takes one.
        kept_states: Hidden states of the scoring before this one, to go on from; gets this one's.

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
    choice = _choice(model, recipe, windows, count)
    details: dict[str, Tensor] = {}
    with Timer() as timer:
        if recipe.selection == "one_shot" and earlier is not None:
            known = {row.unit: row for row in earlier.units}
            rows = [known[unit] for unit in choice.units if unit in known]
        else:
            pieces = unpadded(windows, recipe.calibration.batch_size)
            if recipe.importance.first_share < 1:
                choice, scores = _approximate(model, recipe, pieces, choice)
            else:
                more = {"details": details, "kept_states": kept_states}
                scores = _measure(model, recipe, pieces, choice, **more)
            rows = _rows(choice.units, scores, details)
    record = _record(recipe, choice, rows, len(model.removed) + choice.run)
    return record.plus(seconds=round(timer.seconds, 3), memory_gib=round(peak_memory_gib(), 3))


def score_shard(
    model: Model, recipe: Recipe, windows: Tensor, shard: Shard, count: int = 1
) -> PartialScores:
    """Measure what a part of the windows adds to the scores of ``score_step``.

    Args:
        model: As pruned so far. Unchanged.
        recipe: Names the metric, its settings, the selection and the protected units.
        windows: All calibration token ids ``[sequences, length]`` int64.
        shard: Which part of them.
        count: Units that a ``contiguous`` selection takes at once; every other takes one.

    Raises:
        ConfigError: The metric must see all windows in one job; or as ``score_step``.
    """
    check_shards(recipe)
    choice = _choice(model, recipe, windows, count)
    pieces = shard.part(unpadded(windows, recipe.calibration.batch_size))
    sums = Sums()
    with Timer() as timer:
        if pieces:
            _measure(model, recipe, pieces, choice, sums=sums)
    measured = zip(sums.weights, sums.values, strict=True)
    return PartialScores.model_validate(
        {
            "kind": "partial_scores",
            "shard": shard.number,
            "shards": shard.shards,
            "step": len(model.removed) + choice.run,
            "metric": recipe.metric,
            "settings": recipe.importance.own(),
            **vars(choice),
            "batches": [{"weight": weight, "values": x.tolist()} for weight, x in measured],
            "seconds": round(timer.seconds, 3),
            "memory_gib": round(peak_memory_gib(), 3),
        }
    )


def add_up(parts: Sequence[PartialScores], recipe: Recipe) -> Scores:
    """Return what ``score_step`` returns, from the parts of all shards, to the last bit.

    Args:
        parts: All of them, in the order of their windows.
        recipe: Names the metric and the selection.

    Raises:
        NumericsError: A score is infinite.
    """
    first, sums = parts[0], Sums()
    for batch in (batch for part in parts for batch in part.batches):
        sums.add(torch.tensor(batch.values, dtype=torch.float64).unbind(), batch.weight)
    choice = Choice(first.units, first.able, first.run)
    scores = METRICS[recipe.metric].combine(sums)
    finite(recipe.metric, choice.units[: len(scores)], scores)
    record = _record(recipe, choice, _rows(choice.units, scores), first.step)
    peak = max(part.memory_gib or 0.0 for part in parts)
    return record.plus(seconds=round(sum(part.seconds for part in parts), 3), memory_gib=peak)


def check_shards(recipe: Recipe) -> None:
    """Refuse a metric that must see all windows in one job.

    Raises:
        ConfigError: It is one.
    """
    if not METRICS[recipe.metric].adds_up(recipe.importance):
        able = ", ".join(sorted(name for name, line in METRICS.items() if line.from_sums))
        with_these = f"{recipe.metric!r} with {recipe.importance.own()}"
        raise ConfigError(
            f"recipes.{recipe.name}.importance: must have scores that add up over windows, as"
            f" {able} have, got {with_these}; score it in one job, without --shard"
        )


def _choice(model: Model, recipe: Recipe, windows: Tensor, count: int) -> Choice:
    """What may go, asked before anything is scored."""
    if not model.removed:
        check_suits(model, recipe, windows)
    units = candidates(model, recipe, windows)
    if recipe.selection != "contiguous":
        fitting = units_that_fit(model, recipe, units)
        return Choice(units, [units.index(unit) for unit in fitting], 1)
    check_run(model, recipe, units, count)
    runs = [units[start : start + count] for start in range(len(units) - count + 1)]
    return Choice(units, able_runs(model, runs, runs_that_fit(model, recipe, runs)), count)


def _measure(
    model: Model, recipe: Recipe, pieces: Sequence[Tensor], choice: Choice, **more: Any
) -> Tensor:
    """Score now.

    Args:
        model: As pruned so far. Unchanged.
        recipe: Names the metric and its settings.
        pieces: Batches of windows.
        choice: What is scored.
        more: ``sums``, ``details`` or ``kept_states``, which the metric fills; ``original``, if it
            is loaded.
    """
    metric = METRICS[recipe.metric]
    known: dict[str, Any] = {"seed": recipe.seed, "run": choice.run, **more}
    if recipe.importance.reference == "original" and "original" not in more:
        known["original"] = load_original(model)
    taken = recipe.importance.takes | {"sums"}
    given = {name: value for name, value in known.items() if name in taken}
    number = sum(map(len, pieces))
    total = _passes(model, recipe, choice.units, number)
    if (kept := more.get("kept_states")) is not None:
        kept.begin(model, len(pieces), choice.units)
        total = None if total is None else total - number * kept.spared(model, choice.units)
    with counting_passes(model, recipe.metric, total):
        scores: Tensor = metric.load()(model, pieces, choice.units, recipe.importance, **given)
    return scores


def _approximate(
    model: Model, recipe: Recipe, pieces: Sequence[Tensor], choice: Choice
) -> tuple[Choice, Tensor]:
    """Score on growing numbers of windows.

    Args:
        model: As pruned so far. Unchanged.
        recipe: Names the metric and its settings.
        pieces: Batches of windows.
        choice: What may go.

    Returns:
        The units that were scored on all windows, and their scores.
    """
    metric, chosen = METRICS[recipe.metric], recipe.importance
    whole = {"original": load_original(model)} if chosen.reference == "original" else {}
    rounds: list[str] = []

    def measure(first: int, end: int, left: Sequence[Unit]) -> Sums:
        rounds.append(f"{len(left)} on {sum(map(len, pieces[:end]))}")
        sums = Sums()
        _measure(model, recipe, pieces[first:end], Choice([*left], [], 1), sums=sums, **whole)
        return sums

    able = [choice.units[place] for place in choice.able]
    left, scores = halve(measure, metric.combine, able, len(pieces), chosen.first_share)
    logger.info("%s, approximately: units on windows: %s", recipe.metric, ", ".join(rounds))
    return Choice(left, list(range(len(left))), 1), scores


def _rows(
    units: Sequence[Unit], scores: Tensor, details: dict[str, Tensor] | None = None
) -> list[ScoredUnit]:
    """One row a unit, or a run of them, with what else the metric says about it."""
    more = {
        name: [value if math.isfinite(value) else None for value in values.tolist()]
        for name, values in (details or {}).items()
    }
    return [
        ScoredUnit.model_validate(
            {**unit.to_json(), "score": score, **{name: of[place] for name, of in more.items()}}
        )
        for place, (unit, score) in enumerate(
            zip(units[: len(scores)], scores.tolist(), strict=True)
        )
    ]


def _record(recipe: Recipe, choice: Choice, rows: list[ScoredUnit], step: int) -> Scores:
    """The scores with what is chosen by them."""
    contiguous = recipe.selection == "contiguous"
    if contiguous:
        chosen = select_run(choice.units, [x.score for x in rows], choice.run, choice.able)
    else:
        able = {choice.units[place] for place in choice.able}
        rows = [row for row in rows if row.unit in able]
        chosen = [select([row.unit for row in rows], [row.score for row in rows])]
    return Scores.model_validate(
        {
            "kind": "scores",
            "step": step,
            "metric": recipe.metric,
            "settings": recipe.importance.own(),
            "units": rows,
            "selected": chosen[0],
            **({"selected_units": chosen} if contiguous else {}),
        }
    )


def _passes(model: Model, recipe: Recipe, units: Sequence[Unit], windows: int) -> int | None:
    """How many block forward passes the metric makes of all windows; None: it does not say."""
    blocks, sublayers = len(model.kept), recipe.granularity != "block"
    places = [model.position(unit.index) for unit in units]
    without_each = blocks + sum(blocks - place - (not sublayers) for place in places)
    counts = (model.num_blocks, blocks, len(units), places[0], without_each, sublayers)
    passes = recipe.importance.passes(Scoring(*counts))
    return None if passes is None else round(passes.forward * windows)
