"""Whether a model has a place that a recovery can fold into: asked before the first score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

from fusegpt.errors import ArchitectureError
from fusegpt.models.model import Model
from fusegpt.models.structure.residual import OutputProjection, last_projection
from fusegpt.recovery.gap import projection_before
from fusegpt.recovery.settings import RecoverySettings
from fusegpt.units import Unit

__all__ = ["first_that_works", "folds_before"]

Found = TypeVar("Found")


def folds_before(
    model: Model, units: Sequence[Unit], batch: Tensor, settings: RecoverySettings
) -> OutputProjection:
    """Return some matrix that a map can be folded into: a block's last one, or before a sublayer.

    Args:
        model: Unchanged.
        units: Remaining units of the recipe's granularity that the data run through.
        batch: Token ids ``[batch, seq]``.
        settings: Not used.

    Raises:
        ArchitectureError: There is none; the message is that of the last one tried.
    """
    if units[0].kind == "block":
        return first_that_works(units, lambda unit: last_projection(model, unit.index, batch))
    behind = [unit for unit in units if unit.index != model.kept[0]]
    return first_that_works(behind, lambda u: projection_before(model, [u], batch, "recovery")[1])


def first_that_works(units: Sequence[Unit], attempt: Callable[[Unit], Found]) -> Found:
    """Return what an attempt gives for the first unit for which it is not refused.

    Raises:
        ArchitectureError: It is refused for all of them; the message is the last one.
    """
    failure: ArchitectureError | None = None
    for unit in units:
        try:
            return attempt(unit)
        except ArchitectureError as error:
            failure = error
    raise failure or ArchitectureError("recovery: the data run through no unit to work on")
