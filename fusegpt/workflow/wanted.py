"""Targets of an experiment as numbers of removals, by the shape that a model's entry says."""

from __future__ import annotations

from collections.abc import Sequence

from fusegpt.errors import ConfigError
from fusegpt.pruning.counting import Resolved, resolve_target
from fusegpt.pruning.definition import Recipe
from fusegpt.pruning.target import Target
from fusegpt.workflow.schema import Model

__all__ = ["resolved_targets"]


def resolved_targets(
    targets: Sequence[Target], recipe: Recipe, model: str, entry: Model, where: str
) -> list[Resolved]:
    """Return the removals that each target takes.

    Args:
        targets: What is wanted in place of sparsities.
        recipe: One of the experiment's.
        model: Name of the model.
        entry: Its entry in the configuration.
        where: Names the place in messages.

    Raises:
        ConfigError: A target cannot be met or counted, or the recipe slices widths.
    """
    if targets and recipe.slices:
        raise ConfigError(
            f"{where}: must be fractions for recipe {recipe.name!r}, which slices widths, got"
            f" {targets[0].text}; give it an experiment of its own"
        )
    return [
        resolve_target(target, recipe, entry.shape, entry.num_blocks, where, model=model)
        for target in targets
    ]
