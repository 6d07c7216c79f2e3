"""What ``fusegpt plan`` says of sliced widths."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fusegpt.pruning.recipe import Recipe
from fusegpt.work import Shape, Stage, Work, total
from fusegpt.workflow import slices
from fusegpt.workflow.cost import drawn
from fusegpt.workflow.dryrun import Job
from fusegpt.workflow.experiment import Plan

__all__ = ["slice_lines", "slice_rows", "slice_work"]


def slice_work(
    recipe: Recipe, num_blocks: int, shape: Shape | None, sequences: int | None = None
) -> Work:
    """Work of slicing at one sparsity; ``sequences``: windows of a file sampled by rows."""
    assert recipe.width is not None, recipe.name
    number, known = drawn(recipe, "calibration", sequences), shape or Shape(**EMPTY)
    blocks = (num_blocks, num_blocks, num_blocks, 0)
    work = recipe.width.work(Stage(*blocks, number or 0, recipe.calibration.length, known))
    if number is None:
        return replace(work, tokens=None, flops=None)
    return work if shape is not None else replace(work, flops=None)


EMPTY = {"values": 0, "sides": 0, "width": 0}


def slice_rows(
    plan: Plan, to_run: Sequence[Job], shape_of: Callable[[str], Shape | None]
) -> Iterator[dict[str, Any]]:
    """One row per model and recipe that slices widths.

    Args:
        plan: Of the merged configuration.
        to_run: Jobs that wait.
        shape_of: Of a model, by name.
    """
    asked: dict[tuple[str, str], list[str]] = {}
    for model, recipe, sparsity in slices.sliced(plan):
        asked.setdefault((model, recipe), []).append(sparsity)
    waiting = {
        (job.wildcards["model"], job.wildcards["recipe"], job.wildcards["sparsity"])
        for job in to_run
        if job.rule == "slice"
    }
    for (model, recipe), sparsities in asked.items():
        one = slice_work(plan.slices[recipe], plan.models[model].num_blocks, shape_of(model))
        left = [one for x in sparsities if (model, recipe, x) in waiting]
        row: dict[str, Any] = {"model": model, "recipe": recipe, "sparsities": sparsities}
        whole = vars(total([one] * len(sparsities)))
        yield {**row, "all_slice": whole, "to_run_slice": vars(total(left))}


def slice_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The rows for people."""
    for row in rows:
        whole, rest = row["all_slice"], row["to_run_slice"]
        yield f"{row['model']}  {row['recipe']}  sparsities {', '.join(row['sparsities'])}"
        counts = [_count(work["tokens"]) for work in (whole, rest)]
        yield f"  {'calibration tokens':<20}{counts[0]:>16} / {counts[1]}"
        flops = [_flops(work["flops"]) for work in (whole, rest)]
        yield f"  {'slicing FLOPs':<20}{flops[0]:>16} / {flops[1]}"


def _count(value: float | None) -> str:
    return "not counted" if value is None else f"{round(value):,}"


def _flops(value: float | None) -> str:
    return "not known yet" if value is None else f"{value:.3g}"
