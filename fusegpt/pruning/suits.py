"""Whether a model suits a recipe's recovery: asked before the first score, not after it."""

from __future__ import annotations

from torch import Tensor

from fusegpt.models.model import Model
from fusegpt.models.structure.reached import reached
from fusegpt.pruning.recipe import Recipe
from fusegpt.recovery import RECOVERIES
from fusegpt.registry import Entry

__all__ = ["check_suits"]


def check_suits(model: Model, recipe: Recipe, windows: Tensor) -> None:
    """Refuse a model in which the recovery cannot work on any unit.

    A model some of whose units can take it passes; whether the right ones can shows at each step.

    Args:
        model: Unchanged.
        recipe: Names the recovery.
        windows: Token ids ``[sequences, length]``; one sequence is run.

    Raises:
        ArchitectureError: None can; the message is that of the last one tried.
    """
    suits = RECOVERIES[recipe.method].suits
    if suits is None:
        return
    batch = windows[:1]
    seen = reached(model, batch)
    units = [unit for unit in model.units(recipe.granularity) if unit.index in seen]
    Entry(suits).load()(model, units, batch, recipe.recovery)
