"""No recovery: the unit is removed and nothing else happens."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fusegpt.models.model import Model
from fusegpt.models.surgery import remove
from fusegpt.models.units import Unit
from fusegpt.recovery.report import RecoveryReport

__all__ = ["none"]


def none(
    model: Model, unit: Unit | Sequence[Unit], windows: Tensor | None = None, *, seed: int
) -> RecoveryReport:
    """Remove the unit, or a run of units, for good.

    Args:
        model: Loses them.
        unit: Living.
        windows: Not used.
        seed: Not used.
    """
    remove(model, *([unit] if isinstance(unit, Unit) else unit))
    return RecoveryReport()
