"""Whether a model has enough blocks for what a recipe is to remove; known before anything runs."""

from __future__ import annotations

from fusegpt.errors import ConfigError
from fusegpt.pruning.recipe import Recipe

__all__ = ["check_reach"]


def check_reach(recipe: Recipe, num_blocks: int, count: int, where: str) -> None:
    """Refuse a number of removals that this recipe cannot make in a model of so many blocks.

    Args:
        recipe: Protects blocks, and may draw sub-networks.
        num_blocks: Of the dense model.
        count: Units to remove, at least 1.
        where: Names the place in messages.

    Raises:
        ConfigError: Too many blocks are protected, or a drawn sub-network could not do without some
            unit, or with it.
    """
    common = recipe.importance
    first, last = common["protect_first"], common["protect_last"]
    units = recipe.num_units(max(num_blocks - first - last, 0))
    if count > units:
        kinds = "blocks" if recipe.granularity == "block" else "units"
        raise ConfigError(
            f"{where}: {count} of {recipe.num_units(num_blocks)} {kinds} are to go, but recipe"
            f" {recipe.name!r} protects the first {first} blocks and the last {last}, which leaves"
            f" {units}; lower the sparsity, or protect fewer"
        )
    if common.get("subnetworks") == "sampled":
        fewest = units - (0 if recipe.selection == "one_shot" else count - 1)
        _check_sampled(recipe, fewest, units, where)


def _check_sampled(recipe: Recipe, fewest: int, most: int, where: str) -> None:
    """Each unit must be in some of the drawn sub-networks and absent from some."""
    kept, samples = recipe.importance["kept"], recipe.importance["samples"]
    text = f"{where}: recipe {recipe.name!r} draws sub-networks with {kept:g} of the units"
    if int(kept * fewest) == 0:
        raise ConfigError(f"{text}, which is none of {fewest}; raise importance.kept")
    if recipe.calibration.rows is not None:
        return
    number = samples * recipe.calibration.sequences
    if number * (most - int(kept * most)) < most:
        raise ConfigError(
            f"{text}: {number} of them do not do without each of {most} units once; raise"
            " importance.samples"
        )
