"""No recovery: the unit is removed and nothing else happens."""

from __future__ import annotations

from torch import Tensor

from fusegpt.models.model import Model
from fusegpt.models.surgery import remove
from fusegpt.models.units import Unit
from fusegpt.recovery.report import RecoveryReport

__all__ = ["none"]


def none(model: Model, unit: Unit, windows: Tensor | None = None, *, seed: int) -> RecoveryReport:
    """Remove the unit for good.

    Args:
        model: Loses the unit.
        unit: A living unit.
        windows: Not used.
        seed: Not used.
    """
    remove(model, unit)
    return RecoveryReport()
