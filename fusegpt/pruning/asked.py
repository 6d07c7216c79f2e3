"""How many units go from a model at hand, some of which may be gone already."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from fusegpt.errors import ConfigError
from fusegpt.models.model import Model
from fusegpt.pruning.budget import removals
from fusegpt.pruning.reach import check_reach
from fusegpt.pruning.recipe import Recipe
from fusegpt.units import Unit

__all__ = ["removals_from"]


def removals_from(model: Model, recipe: Recipe, sparsity: Decimal | float | str | None) -> int:
    """Return how many units a recipe is to remove from a model.

    Args:
        model: Unchanged.
        recipe: Says what a unit is, and which may go.
        sparsity: Fraction of the dense model's units. None: all that the recipe's list names.

    Raises:
        ConfigError: So many cannot go.
    """
    units = model.units(recipe.granularity)
    dense = recipe.num_units(model.num_blocks)
    if sparsity is None:
        count = _named(model, recipe, units)
    else:
        count = removals(dense, sparsity) - (dense - len(units))
    if count > 0 and len(units) == dense:
        check_reach(recipe, model.num_blocks, count, "blocks" if sparsity is None else "sparsity")
    return count


def _named(model: Model, recipe: Recipe, units: Sequence[Unit]) -> int:
    """How many units the recipe's list names; all are there, and something is left."""
    recipe.importance.check_numbers(recipe, model.num_blocks)
    named = recipe.importance.order(recipe.all_units(model.num_blocks))
    if named is None:
        raise ConfigError(
            f"recipes.{recipe.name}: how much goes must be given, {recipe.metric} names no units"
        )
    where = f"recipes.{recipe.name}.importance.blocks"
    for unit in named:
        if unit not in units:
            raise ConfigError(f"{where}: must name units of the model, {unit} is gone already")
    if len(named) >= len(units):
        raise ConfigError(f"{where}: must leave at least one of {len(units)} units")
    return len(named)
