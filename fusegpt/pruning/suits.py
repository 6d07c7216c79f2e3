"""Whether a model suits a recipe's recovery: asked before the first score, not after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

from fusegpt.errors import ArchitectureError
from fusegpt.models.checkpoints.load import load_structure
from fusegpt.models.model import Model
from fusegpt.models.structure.reached import reached
from fusegpt.models.structure.residual import check_head, last_projection, rescaled_projections
from fusegpt.models.surgery.biases import give_bias
from fusegpt.pruning.recipe import Recipe
from fusegpt.recovery import RECOVERIES
from fusegpt.recovery.gap import projection_before

__all__ = ["check_suits"]

Found = TypeVar("Found")
Place = TypeVar("Place")


def check_suits(model: Model, recipe: Recipe, windows: Tensor) -> None:
    """Refuse a model into whose blocks the recovery cannot fold what it finds.

    A model some of whose blocks can take it passes; whether the right ones can shows at each step.

    Args:
        model: Unchanged.
        recipe: Names the recovery.
        windows: Token ids ``[sequences, length]``; one sequence is run.

    Raises:
        ArchitectureError: No block can; the message is that of the last one tried.
    """
    batch, recovery = windows[:1], recipe.recovery
    if recipe.granularity != "block":
        if RECOVERIES[recipe.method].needs_before:
            units = [u for u in model.units(recipe.granularity) if u.index != model.kept[0]]
            _first_that_works(units, lambda u: projection_before(model, [u], batch, recipe.method))
        return
    seen = reached(model, batch)
    blocks = [index for index in model.kept if index in seen]
    if RECOVERIES[recipe.method].needs_before or recovery.get("scale") == "channel":
        projection = _first_that_works(blocks, lambda index: last_projection(model, index, batch))
        if recipe.method == "additive_bias" and model.source is not None:
            give_bias(load_structure(model.source), f"{projection.name}.bias")
    elif recovery.get("scale") == "stream":
        check_head(model, batch)
        _first_that_works(blocks, lambda index: rescaled_projections(model, index, batch, 1.0))


def _first_that_works(places: Sequence[Place], attempt: Callable[[Place], Found]) -> Found:
    failure: ArchitectureError | None = None
    for place in places:
        try:
            return attempt(place)
        except ArchitectureError as error:
            failure = error
    assert failure is not None
    raise failure
