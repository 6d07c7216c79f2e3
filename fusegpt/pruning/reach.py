"""Whether a model has enough blocks for what a recipe is to remove; known before anything runs."""

from __future__ import annotations

from fusegpt.errors import ConfigError
from fusegpt.pruning.recipe import Recipe

__all__ = ["check_reach"]


def check_reach(recipe: Recipe, num_blocks: int, count: int, where: str) -> None:
    """Refuse a number of removals that this recipe cannot make in a model of so many blocks.

    Args:
        recipe: Protects blocks; its metric may need more units to tell them apart.
        num_blocks: Number of blocks of the dense model.
        count: Units to remove, at least 1.
        where: Names the place in messages.

    Raises:
        ConfigError: Too many blocks are protected, or the metric could not tell the units apart.
    """
    first, last = recipe.importance.protect_first, recipe.importance.protect_last
    units = recipe.num_units(max(num_blocks - first - last, 0))
    if count > units:
        kinds = "blocks" if recipe.granularity == "block" else "units"
        raise ConfigError(
            f"{where}: {count} of {recipe.num_units(num_blocks)} {kinds} are to go, but recipe"
            f" {recipe.name!r} protects the first {first} blocks and the last {last}, which leaves"
            f" {units}; lower the sparsity, or protect fewer"
        )
    fewest = units - (0 if recipe.selection == "one_shot" else count - 1)
    recipe.importance.check_units(recipe, fewest, units, where)
