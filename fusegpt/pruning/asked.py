"""How many units go from a model at hand, some of which may be gone already."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from decimal import Decimal

from fusegpt.data.shape import block_shape
from fusegpt.errors import ConfigError
from fusegpt.models.model import Model
from fusegpt.models.structure.branches import parameters_of
from fusegpt.pruning.budget import removals
from fusegpt.pruning.counting import resolve_target
from fusegpt.pruning.reach import check_reach
from fusegpt.pruning.recipe import Recipe
from fusegpt.pruning.target import Target
from fusegpt.units import Unit

__all__ = ["removals_from"]

logger = logging.getLogger(__name__)


def removals_from(
    model: Model, recipe: Recipe, sparsity: Decimal | float | str | Target | None
) -> int:
    """Return how many units a recipe is to remove from a model.

    Args:
        model: Unchanged.
        recipe: Says what a unit is, and which may go.
        sparsity: Fraction of the dense model's units, or a target that the model as it is is to
            meet. None: all that the recipe's list names.

    Raises:
        ConfigError: So many cannot go; more are gone already; or none is to go before what trains
            at the end.
    """
    units = model.units(recipe.granularity)
    dense = recipe.num_units(model.num_blocks)
    if sparsity is None:
        count = _named(model, recipe, units)
    elif isinstance(sparsity, Target):
        count = _meeting(model, recipe, units, sparsity)
    else:
        gone = dense - len(units)
        wanted = removals(dense, sparsity)
        if wanted < gone:
            raise ConfigError(
                f"sparsity: must take the {gone} of {dense} units that are gone already, {sparsity}"
                f" takes {wanted}"
            )
        count = wanted - gone
    if count > 0 and len(units) == dense:
        check_reach(recipe, model.num_blocks, count, "blocks" if sparsity is None else "sparsity")
    if not count and recipe.trains_at_end:
        raise ConfigError(
            f"recipes.{recipe.name}: {recipe.finish_method or recipe.method} trains what a removal"
            " leaves, but nothing is to go; ask for more, or take a recipe that does not train"
        )
    return count


def _meeting(model: Model, recipe: Recipe, units: Sequence[Unit], target: Target) -> int:
    """How many of the units that are there have to go for a target."""
    chosen, blocks = recipe.importance, len(model.kept)
    may_go = chosen.open_among(model.kept)
    able = [unit for unit in units if unit.index in may_go]
    named = chosen.order(able)
    shape = None if model.source is None else block_shape(model.source, blocks)
    if shape is not None and recipe.granularity != "block" and shape.smallest is None:
        matrices = parameters_of(model, Unit("mlp", model.kept[0])).values()
        mlp = sum(matrix.numel() for matrix in matrices if matrix.dim() >= 2)
        shape = shape.model_copy(update={"mlp": mlp})
    most = min(len(able if named is None else named), len(units) - 1)
    found = resolve_target(target, recipe, shape, blocks, "target", most=most)
    logger.info("%s: %d of %d units go, %s", target.text, found.count, len(units), found.left)
    return found.count


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
