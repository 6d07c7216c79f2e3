"""Settings of the recoveries: one class each, a file for each family, none of which needs torch."""

from fusegpt.recovery.settings.base import RecoverySettings
from fusegpt.recovery.settings.families import Tuning

__all__ = ["RecoverySettings", "Tuning"]
