"""Which units may go, and which of them do."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import Tensor

from fusegpt.errors import ArchitectureError, ConfigError, NumericsError
from fusegpt.models.model import Model
from fusegpt.models.structure.reached import reached
from fusegpt.models.surgery.sublayer_removal import (
    check_sublayers,
    last_blocks_of_their_kind,
    last_of_their_kind,
)
from fusegpt.pruning.recipe import Recipe
from fusegpt.units import Unit

__all__ = ["able_runs", "candidates", "check_run", "select", "select_run"]

logger = logging.getLogger(__name__)


def candidates(model: Model, recipe: Recipe, windows: Tensor) -> list[Unit]:
    """Units that are not protected and that the data run through (decisions D4, D24).

    A unit without which none of its kind would be left is none of them; which run of neighbours
    may go is ``able_runs``'s to say.

    Raises:
        ArchitectureError: The model's blocks have no attentions and mlps that can be told apart.
        ConfigError: There are none.
    """
    chosen = recipe.importance
    chosen.check_numbers(recipe, model.num_blocks)
    first, last = chosen.protect_first, chosen.protect_last
    units = model.units(recipe.granularity)
    open_blocks = chosen.open_among(model.kept)
    seen = reached(model, windows[:1])
    allowed = [unit for unit in units if unit.index in seen and unit.index in open_blocks]
    if recipe.granularity == "block" and recipe.selection != "contiguous":
        allowed = [unit for unit in allowed if not _stays(model, unit)]
    if recipe.granularity != "block":
        allowed = [unit for unit in allowed if not last_of_their_kind(model, [unit])]
        for unit in allowed:
            check_sublayers(model, [unit])
    if not allowed:
        kinds = "blocks" if recipe.granularity == "block" else "units"
        protected = [f"protect_first {first}", f"protect_last {last}"]
        protected += [f"protect {chosen.protect}"] if chosen.protect else []
        raise ConfigError(
            f"recipes.{recipe.name}.importance: {', '.join(protected)} leave none of {len(units)}"
            f" {kinds} to remove; the last of a kind stays, too"
        )
    return allowed


def _stays(model: Model, block: Unit) -> bool:
    last = bool(last_blocks_of_their_kind(model, [block]))
    if last:
        logger.info("%s stays: it is the last of its kind; caches and masks go by it", block)
    return last


def check_run(model: Model, recipe: Recipe, units: Sequence[Unit], count: int) -> None:
    """Refuse a run of ``count`` units that cannot be had from ``units``.

    Raises:
        ArchitectureError: The units are no neighbours.
        ConfigError: There are fewer of them.
    """
    if count > len(units):
        raise ConfigError(
            f"recipes.{recipe.name}: a run of {count} blocks must fit into the {len(units)} that"
            " may go; lower the sparsity, or protect fewer"
        )
    places = [model.position(unit.index) for unit in units]
    if places != list(range(places[0], places[0] + len(places))):
        raise ArchitectureError(
            f"recipes.{recipe.name}: a contiguous selection needs neighbouring blocks, but the"
            f" data pass over some between {units[0]} and {units[-1]}"
        )


def select(units: Sequence[Unit], scores: Sequence[float]) -> Unit:
    """Return the unit with the lowest score; among equals the first.

    Raises:
        NumericsError: A score is NaN; the message names the unit.
    """
    for unit, score in zip(units, scores, strict=True):
        if score != score:
            raise NumericsError(f"score of {unit} is nan")
    return min(zip(scores, units, strict=True))[1]


def able_runs(model: Model, runs: Sequence[Sequence[Unit]], starts: Sequence[int]) -> list[int]:
    """Return the places of the runs after which every kind of block is still there.

    Args:
        model: As pruned so far.
        runs: All runs of neighbours.
        starts: Places of those to choose from.

    Raises:
        ArchitectureError: There are none.
    """
    able = [start for start in starts if not last_blocks_of_their_kind(model, runs[start])]
    if not able:
        raise ArchitectureError(
            f"every run of {len(runs[0])} blocks holds the last one of its kind, which must stay;"
            " lower the sparsity, or use selection 'iterative'"
        )
    return able


def select_run(
    units: Sequence[Unit],
    scores: Sequence[float],
    count: int,
    starts: Sequence[int] | None = None,
) -> list[Unit]:
    """Return the run of ``count`` neighbours with the lowest score; among equals the first.

    Args:
        units: All that may go, in order.
        scores: ``[units - count + 1]``, each of the run that starts at the unit of its place.
        count: Number of units in a run.
        starts: Places of the runs to choose from; None: all.

    Raises:
        NumericsError: A score is NaN; the message names the first unit of the run.
    """
    able = list(range(len(scores)) if starts is None else starts)
    chosen = select([units[start] for start in able], [scores[start] for start in able])
    start = units.index(chosen)
    return list(units[start : start + count])
