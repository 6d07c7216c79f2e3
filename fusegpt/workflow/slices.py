"""What experiments ask of width recipes: a sliced model per sparsity, which is in its path."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fusegpt.workflow.experiment import Plan

__all__ = ["SlicePoint", "kept_slices", "slice_points", "sliced", "sparsities"]

SlicePoint = tuple[str, str, str]
"""Model, recipe id, sparsity as it is written in paths."""


def slice_points(plan: Plan, experiment: str) -> list[SlicePoint]:
    """The sliced models of an experiment; at sparsity 0 there is the dense one instead."""
    asked = plan.experiments[experiment]
    return [
        (model, member.id, str(sparsity))
        for model in asked.models
        for member in plan.members[experiment]
        if member.id in plan.slices
        for sparsity in asked.sparsities
        if sparsity
    ]


def sliced(plan: Plan) -> dict[SlicePoint, list[str]]:
    """Every sliced model with the evaluations that any experiment wants of it."""
    found: dict[SlicePoint, list[str]] = {}
    for name, experiment in plan.experiments.items():
        for point in slice_points(plan, name):
            names = found.setdefault(point, [])
            names += [x for x in experiment.evaluations if x not in names]
    return found


def kept_slices(plan: Plan) -> list[SlicePoint]:
    """The sliced models whose cards any experiment wants; they themselves are always kept."""
    found: dict[SlicePoint, None] = {}
    for name, experiment in plan.experiments.items():
        if experiment.keep_checkpoints:
            found |= dict.fromkeys(slice_points(plan, name))
    return list(found)


def sparsities(plan: Plan) -> list[str]:
    """Every sparsity that stands in a path."""
    return list(dict.fromkeys(sparsity for _, _, sparsity in sliced(plan)))
