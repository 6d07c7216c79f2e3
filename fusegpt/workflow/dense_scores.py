"""Scores of dense models: recipes that score one alike share them, and score it once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from fusegpt.pruning.recipe import Recipe, resolve
from fusegpt.workflow.plan import Plan

__all__ = ["DenseScores", "all_dense_scores", "dense_scores", "starts_dense"]


NOT_SCORED = ("name", "recovery", "finetune", "rerank", "chain", "finish", "checkpoint_dtype")
"""Keys of a recipe that its scores of the dense model do not depend on."""


@dataclass(frozen=True)
class DenseScores:
    """What decides the scores of a dense model, besides the model.

    Attributes:
        id: ``<metric>-<8 hex>``, part of the file's path.
        recipe: One with this importance, calibration and dtype, and nothing else of its own.
        windows: Id of the calibration windows.
        count: Blocks that a contiguous selection takes at once; 1 for every other.
    """

    id: str
    recipe: Recipe
    windows: str
    count: int


def starts_dense(recipe: Recipe, step: int) -> bool:
    """Whether a step scores the dense model: the first, and each one of a contiguous selection."""
    return step == 1 or recipe.selection == "contiguous"


def dense_scores(plan: Plan, recipe_id: str, step: int) -> DenseScores:
    """What a step that starts from the dense model scores; equal for recipes that score alike.

    Args:
        plan: Has the recipe.
        recipe_id: Id of a run's recipe.
        step: 1, or of a contiguous selection any.
    """
    recipe = plan.recipes[recipe_id]
    assert starts_dense(recipe, step), (recipe_id, step)
    contiguous = recipe.selection == "contiguous"
    seeded = "seed" in recipe.importance.takes
    matters = {key: value for key, value in recipe.to_json().items() if key not in NOT_SCORED}
    matters["selection"] = "contiguous" if contiguous else "iterative"
    matters["calibration"]["seed"] = recipe.windows("calibration").seed
    matters["seed"] = recipe.seed if seeded else 0
    alike = resolve("dense_scores", {**matters, "recovery": {"method": "none"}})
    windows, count = plan.windows_of(recipe_id, "calibration").id, step if contiguous else 1
    content = json.dumps([alike.id, windows, count])
    short = hashlib.sha256(content.encode()).hexdigest()[:8]
    return DenseScores(f"{recipe.metric}-{short}", alike, windows, count)


def all_dense_scores(plan: Plan) -> dict[str, tuple[DenseScores, str, int]]:
    """By id, each with the first recipe of the plan that needs it, and at which step."""
    found: dict[str, tuple[DenseScores, str, int]] = {}
    for point in plan.evaluated:
        if not point.place.number:
            continue
        run = plan.steps_to(point).recipe
        contiguous = plan.recipes[run].selection == "contiguous"
        step = point.place.number if contiguous else 1
        scores = dense_scores(plan, run, step)
        found.setdefault(scores.id, (scores, run, step))
    return found
