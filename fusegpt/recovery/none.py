"""No recovery: the unit is removed and nothing else happens."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fusegpt.models.model import Model
from fusegpt.models.surgery.removal import remove
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings.whole import NoRecovery
from fusegpt.units import Unit

__all__ = ["none"]


def none(
    model: Model,
    unit: Unit | Sequence[Unit],
    windows: Tensor | None = None,
    settings: NoRecovery = NoRecovery(),
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> RecoveryReport:
    """Remove the unit, or a run of units, for good.

    Args:
        model: Loses them.
        unit: Still present.
        windows: Not used.
        settings: There are none.
        seed: Not used.
        checkpoint: Not used.
    """
    remove(model, *([unit] if isinstance(unit, Unit) else unit))
    return RecoveryReport()
