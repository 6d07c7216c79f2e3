"""Result files to rows: one row per measured value of one recipe at one sparsity."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fusegpt.errors import ArtifactError
from fusegpt.results import layout as at
from fusegpt.results.base import read
from fusegpt.results.contents import Contents, Shown, ShownExport
from fusegpt.results.exports import weight_bytes
from fusegpt.results.files import Listing
from fusegpt.results.history import read_history, step_of
from fusegpt.results.models import EvaluatedModel, Evaluation, Slice, read_checkpoint
from fusegpt.results.point import Point
from fusegpt.results.records import Step
from fusegpt.results.recovered import SPENT, Finish, undone_of
from fusegpt.units import KINDS

__all__ = ["COLUMNS", "collect", "evaluation_files", "refuse_mixed_settings", "whole_models"]

COLUMNS = (
    "experiment",
    "model",
    "recipe",
    "recipe_id",
    "seed",
    "sparsity",
    "step",
    "num_blocks",
    "blocks_left",
    "granularity",
    "num_units",
    "units_left",
    "parameters",
    "evaluation",
    "task",
    "metric",
    "value",
    "unit",
    "higher_is_better",
    "num_samples",
    "score_seconds",
    "fuse_seconds",
    "seconds",
    "memory_gib",
    *SPENT,
    "undone",
    "trainings",
    "protocol",
    "note",
    "asked",
    "export",
    "file_bytes",
)
"""Columns of the CSV; ``note`` is a warning on the value, most often empty, ``asked`` is what stood
in place of a sparsity, ``export`` is what file was measured in place of the model (empty: the model
itself), and ``file_bytes`` is how large the files of weights are, where they lie in the results.

Seconds, memory and what recovery spent cover all steps up to this one, seconds and memory those of
scoring, too: the highest memory, the most trainable parameters at once, and the sums of tokens,
optimiser steps and FLOPs. ``trainings`` counts the steps and the finish that trained, or fitted in
closed form, ``undone`` those of them that ended worse than they began, so that nothing of them was
kept.
"""


def collect(
    contents: Contents, results: str | Path, missing: Collection[Path] = ()
) -> pd.DataFrame:
    """Read every evaluation of a table, and the time and memory of the steps behind it.

    Args:
        contents: What the table shows.
        results: The results folder.
        missing: Files of ``evaluation_files`` that are left out.

    Returns:
        A frame with ``COLUMNS``, in the order models, recipes, sparsities, evaluations.

    Raises:
        ArtifactError: A file is missing or corrupt, or rows of one label were measured with
            different settings.
    """
    rows = list(_rows(contents, Path(results), missing))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    refuse_mixed_settings(frame)
    return frame


def evaluation_files(contents: Contents, results: str | Path) -> dict[Path, tuple[Point, str]]:
    """Return every result file that a table reads, with what was measured by which evaluation."""
    return {
        file: (shown.point, name)
        for shown in contents.shown()
        for _, files in _evaluations(contents, shown.point, Path(results))
        for name, file in files.items()
    }


def whole_models(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the models themselves, without those of their exports."""
    return frame[frame["export"] == ""]


def refuse_mixed_settings(frame: pd.DataFrame) -> None:
    """Refuse rows that stand under one label but were not measured alike.

    Raises:
        ArtifactError: Two rows of one model, evaluation, task and metric differ in protocol or
            number of samples.
    """
    for key, group in whole_models(frame).groupby(
        ["model", "evaluation", "task", "metric"], sort=False
    ):
        for column in ("protocol", "num_samples", "unit", "higher_is_better"):
            values = [str(value) for value in pd.unique(group[column])]
            if len(values) > 1:
                raise ArtifactError(
                    f"{'/'.join(str(part) for part in key)}: every row must have the same {column},"
                    f" got {values[0]} and {values[1]}; evaluate again with one setting"
                )


def _rows(contents: Contents, results: Path, missing: Collection[Path]) -> Iterator[dict[str, Any]]:
    for shown in contents.shown():
        there = [
            (export, {name: file for name, file in files.items() if file not in missing})
            for export, files in _evaluations(contents, shown.point, results)
        ]
        if not any(files for _, files in there):
            continue
        common = {
            "experiment": contents.name,
            "model": shown.point.model,
            "recipe": shown.recipe.name,
            "recipe_id": shown.recipe.id,
            "seed": shown.recipe.seed,
            "sparsity": float(shown.sparsity),
            "step": shown.point.place.number,
            "num_blocks": shown.num_blocks,
            "granularity": shown.recipe.granularity,
            "num_units": shown.num_units,
            "asked": shown.asked,
            **_costs(shown.point, results),
        }
        for export, files in there:
            size = _file_bytes(shown.point, export, results)
            more = {"export": export.text if export else "", "file_bytes": size}
            for name, file in files.items():
                row = {**common, **more, "evaluation": name}
                yield from _measured(read(file, Evaluation), shown, row)


def _evaluations(
    contents: Contents, point: Point, results: Path
) -> Iterator[tuple[ShownExport | None, dict[str, Path]]]:
    """Evaluations of a model, and of each of its exports, with their files."""
    names = contents.evaluations
    yield None, {name: at.evaluation.under(results, point, evaluation=name) for name in names}
    for export in contents.exports:
        yield (
            export,
            {
                name: at.export_evaluation.under(
                    results, point, export=export.name, evaluation=name
                )
                for name in export.evaluations
            },
        )


def _file_bytes(point: Point, export: ShownExport | None, results: Path) -> int | None:
    """How large the weights are on the disk; None: they do not lie in the results."""
    if export is not None:
        file = at.export.under(results, point, export=export.name)
    else:
        kind = at.source if point.is_dense else at.sliced if point.place.slices else at.checkpoint
        file = kind.under(results, point)
    return weight_bytes(read(file, Listing).files) if file.is_file() else None


def _measured(
    result: Evaluation, shown: Shown, common: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    for row in result.rows:
        yield {
            **common,
            "blocks_left": len(result.model.kept),
            "units_left": _remaining(result.model, shown),
            "parameters": result.model.parameters,
            "task": row.task,
            "metric": row.metric,
            "value": row.value,
            "unit": row.unit,
            "higher_is_better": row.higher_is_better,
            "num_samples": row.num_samples,
            "protocol": json.dumps({**result.settings, **row.protocol}, sort_keys=True),
            "note": row.note,
        }


def _remaining(model: EvaluatedModel, shown: Shown) -> int:
    """How many units of the recipe's granularity remain."""
    granularity = shown.recipe.granularity
    if granularity == "block":
        return len(model.kept)
    return shown.num_units - sum(unit.kind in KINDS[granularity] for unit in model.removed)


def _costs(point: Point, results: Path) -> dict[str, float | None]:
    """Seconds, peak memory and budget of all that led to a model.

    The seconds of a width method stand in ``seconds`` alone.
    """
    if point.is_dense:
        return _costs_of([], [], [], [])
    if point.place.slices:
        made = read(at.sliced.under(results, point), Slice)
        found = _costs_of([], [], [made.memory_gib], [made.spent] if made.spent else [])
        if made.spent:  # older records do not say how often
            undone = None if made.trainings is None else made.undone
            found |= {"undone": undone, "trainings": made.trainings}
        return found | {"seconds": made.seconds or 0.0}
    links = read_history(step_of(results, point), whole=False).links
    steps = [link.record for link in links]
    file = at.checkpoint.under(results, point)
    finish = read_checkpoint(file).finish if file.is_file() else None
    recoveries: list[Step | Finish] = [*steps, *([finish] if finish else [])]
    undone, trainings = undone_of(recoveries)
    return _costs_of(
        [link.scores.seconds for link in links],
        [recovery.seconds for recovery in recoveries],
        [*(link.scores.memory_gib for link in links), *(made.memory_gib for made in recoveries)],
        [recovery.spent for recovery in recoveries],
    ) | {"undone": undone, "trainings": trainings}


def _costs_of(
    scoring: Sequence[float],
    fusing: Sequence[float],
    memory: Sequence[float | None],
    spent: Sequence[Mapping[str, float]],
) -> dict[str, float | None]:
    score, fuse = sum(scoring, 0.0), sum(fusing, 0.0)
    return {
        "score_seconds": round(score, 3),
        "fuse_seconds": round(fuse, 3),
        "seconds": round(score + fuse, 3),
        "memory_gib": max((value for value in memory if value is not None), default=None),
        **{name: _total(name, spent) for name in SPENT},
        "undone": 0,
        "trainings": 0,
    }


def _total(name: str, spent: Sequence[Mapping[str, float]]) -> float | None:
    """The largest number of trainable parameters, or a sum; None where a record does not say."""
    values = [record[name] for record in spent if name in record]
    if len(values) < len(spent):
        return None
    return max(values, default=0) if name == "trainable_parameters" else sum(values)
