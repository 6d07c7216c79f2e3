"""Whether a model suits a recipe's recovery: asked before the first score, not after it."""

from __future__ import annotations

from torch import Tensor

from fusegpt.data.masked import Masked
from fusegpt.errors import DataError
from fusegpt.models.model import Model
from fusegpt.models.structure.reached import reached
from fusegpt.pruning.recipe import Recipe
from fusegpt.recovery import RECOVERIES
from fusegpt.registry import Entry

__all__ = ["check_masks", "check_suits"]


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


def check_masks(recipe: Recipe, windows: Tensor | None) -> None:
    """Refuse windows with padding for a recovery that would take it for text.

    Args:
        recipe: Names the recovery.
        windows: Fine-tuning token ids, with masks or without.

    Raises:
        DataError: The recovery does not say that it respects masks.
    """
    if isinstance(windows, Masked) and not recipe.recovery.masks:
        raise DataError(
            f"finetune data: {recipe.method} must have windows without masks, got some that end in"
            " padding or count in part; sample them with cut 'joined'"
        )
