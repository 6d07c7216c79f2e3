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
    chosen = recipe.importance
    chosen.check_numbers(recipe, num_blocks)
    units = recipe.num_units(len(chosen.open_blocks(num_blocks)))
    if count > units:
        kinds = "blocks" if recipe.granularity == "block" else "units"
        stay = f"the first {chosen.protect_first} blocks and the last {chosen.protect_last}"
        stay += f" and {', '.join(map(str, chosen.protect))}" if chosen.protect else ""
        raise ConfigError(
            f"{where}: {count} of {recipe.num_units(num_blocks)} {kinds} are to go, but recipe"
            f" {recipe.name!r} protects {stay}, which leaves {units}; lower the sparsity, or"
            " protect fewer"
        )
    chosen.check_count(recipe, count, where)
    fewest = units - (0 if recipe.selection == "one_shot" else count - 1)
    chosen.check_units(recipe, fewest, units, where)
