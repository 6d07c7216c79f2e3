"""``keep_pattern``: what remains has the kinds that the family's formula gives by number (D47)."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from typing import TYPE_CHECKING

from fusegpt.data.kinds import Pattern, kinds_of, pattern_of
from fusegpt.errors import ConfigError
from fusegpt.pruning.definition import Recipe
from fusegpt.units import Unit

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from fusegpt.models.model import Model

__all__ = ["check_count", "check_whole", "runs_that_fit", "units_that_fit"]


def check_count(recipe: Recipe, config: PretrainedConfig, count: int, num_blocks: int) -> None:
    """Refuse a number of removals after which the pattern would be broken.

    Args:
        recipe: One without ``keep_pattern`` passes.
        config: The decoder's.
        count: Blocks of the dense model that go in all.
        num_blocks: Blocks of the dense model.

    Raises:
        ConfigError: It is no number of whole periods; the message names the nearest.
    """
    if not recipe.keep_pattern:
        return
    period = _pattern(recipe, config).period
    if recipe.selection == "contiguous" or not count % period:
        return
    below = count // period * period
    near = [n for n in (below, below + period) if 0 < n < num_blocks]
    told = " or ".join(f"{n} (sparsity {floor(1000 * n / num_blocks) / 1000})" for n in near)
    hint = f"the nearest are {told}" if near else "the model has no more than one"
    raise ConfigError(
        f"recipes.{recipe.name}.keep_pattern: must remove whole periods of {period} blocks, got"
        f" {count} of {num_blocks}; {hint}"
    )


def check_whole(recipe: Recipe, model: Model) -> None:
    """Refuse a model in which a period is begun.

    Raises:
        ConfigError: Its kinds are not those that the formula gives.
    """
    if not recipe.keep_pattern:
        return
    check_count(recipe, model.text_config, model.num_blocks - len(model.kept), model.num_blocks)
    pattern = _pattern(recipe, model.text_config)
    if not pattern.fits(kinds_of(model.text_config, pattern.names)):
        raise ConfigError(
            f"recipes.{recipe.name}.keep_pattern: {', '.join(pattern.names)} must be what the"
            " family's formula gives by number, and is something else in this model; leave the"
            " setting out, or take the dense model as it is published"
        )


def units_that_fit(model: Model, recipe: Recipe, units: Sequence[Unit]) -> list[Unit]:
    """Return the blocks whose removal begins or continues a whole period.

    The last removal of a period leaves kinds that the formula gives; those before it leave enough
    blocks to get there.

    Args:
        model: As pruned so far.
        recipe: One without ``keep_pattern`` takes all.
        units: Blocks that may go.

    Raises:
        ConfigError: There are none, or the family has no such pattern.
    """
    if not recipe.keep_pattern:
        return list(units)
    pattern = _pattern(recipe, model.text_config)
    more = -(model.num_blocks - len(model.kept) + 1) % pattern.period
    kinds = kinds_of(model.text_config, pattern.names)
    places = [model.position(unit.index) for unit in units]
    fitting = []
    for unit, place in zip(units, places, strict=True):
        left = kinds[:place] + kinds[place + 1 :]
        others = {other - (other > place) for other in places if other != place}
        if pattern.completes(left, others, more):
            fitting.append(unit)
    if not fitting:
        raise ConfigError(
            f"recipes.{recipe.name}.keep_pattern: no period of {pattern.period} blocks can go as a"
            " whole from those that may; protect fewer blocks, or remove fewer"
        )
    return fitting


def runs_that_fit(model: Model, recipe: Recipe, runs: Sequence[Sequence[Unit]]) -> list[int]:
    """Return which runs of blocks leave kinds that the formula gives; the last ones always do.

    Raises:
        ConfigError: There are none, or the family has no such pattern.
    """
    if not recipe.keep_pattern:
        return list(range(len(runs)))
    pattern = _pattern(recipe, model.text_config)
    kinds = kinds_of(model.text_config, pattern.names)
    fitting = []
    for number, run in enumerate(runs):
        gone = {model.position(unit.index) for unit in run}
        if pattern.fits([kind for place, kind in enumerate(kinds) if place not in gone]):
            fitting.append(number)
    if not fitting:
        raise ConfigError(
            f"recipes.{recipe.name}.keep_pattern: a run must be whole periods of {pattern.period}"
            " blocks, or the last ones, which are protected; protect fewer, or remove as many"
        )
    return fitting


def _pattern(recipe: Recipe, config: PretrainedConfig) -> Pattern:
    pattern = pattern_of(config)
    if pattern is None:
        raise ConfigError(
            f"recipes.{recipe.name}.keep_pattern: the kinds of {config.model_type}'s blocks must"
            " repeat by a formula of their number, and do not; leave the setting out"
        )
    return pattern
