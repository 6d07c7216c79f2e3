"""Recoveries: what is done about a removed unit.

Each is a function in a file of its own, and a line here that names it and the class of its
settings. One that works at each step is ``recovery(model, unit, windows, settings, *, seed,
checkpoint)``: on entry the unit is still in the model, on return it is gone and the model is as
good as the method makes it. One that works at the end has no ``unit``.

A finish follows any recovery, once, on the model as pruned to the end: ``finish(model, data,
settings, *, seed, checkpoint, answers)``.
"""

from dataclasses import dataclass

from fusegpt.methods import Method
from fusegpt.recovery.settings import RecoverySettings
from fusegpt.recovery.settings.finish import FinishSettings

__all__ = ["FINISHES", "RECOVERIES", "Recovery"]


@dataclass(frozen=True)
class Recovery(Method[RecoverySettings]):
    """A line of ``RECOVERIES``.

    Attributes:
        suits: ``"package.module:function"``, called with model, units, a batch and the settings
            before the first score; it raises when the method can work on none of the units.
    """

    suits: str | None = None


_SETTINGS = "fusegpt.recovery.settings"
_FOLDS = "fusegpt.recovery.suits:folds_before"

RECOVERIES: dict[str, Recovery] = {
    "none": Recovery("fusegpt.recovery.none:none", f"{_SETTINGS}.whole:NoRecovery"),
    "finetune": Recovery("fusegpt.recovery.finetune:finetune", f"{_SETTINGS}.group:Finetune"),
    "fusion": Recovery("fusegpt.recovery.fusion:fusion", f"{_SETTINGS}.group:Fusion"),
    "additive_bias": Recovery(
        "fusegpt.recovery.additive_bias:additive_bias",
        f"{_SETTINGS}.maps:AdditiveBias",
        suits="fusegpt.recovery.additive_bias:suits",
    ),
    "low_rank": Recovery(
        "fusegpt.recovery.low_rank:low_rank", f"{_SETTINGS}.maps:LowRank", suits=_FOLDS
    ),
    "least_squares": Recovery(
        "fusegpt.recovery.least_squares:least_squares",
        f"{_SETTINGS}.maps:LeastSquares",
        suits=_FOLDS,
    ),
    "magnitude": Recovery(
        "fusegpt.recovery.magnitude:magnitude",
        f"{_SETTINGS}.maps:Magnitude",
        suits="fusegpt.recovery.magnitude:suits",
    ),
    "concatenation": Recovery(
        "fusegpt.recovery.concatenation:concatenation",
        f"{_SETTINGS}.whole:Concatenation",
        suits="fusegpt.recovery.concatenation:suits",
    ),
    "streamline": Recovery(
        "fusegpt.recovery.streamline:streamline", f"{_SETTINGS}.whole:Streamline"
    ),
    "lora": Recovery("fusegpt.recovery.lora:lora", f"{_SETTINGS}.whole:Lora"),
    "laco": Recovery("fusegpt.recovery.laco:laco", f"{_SETTINGS}.merges:Laco"),
    "weighted_sum": Recovery(
        "fusegpt.recovery.weighted_sum:weighted_sum", f"{_SETTINGS}.merges:WeightedSum"
    ),
}

_NEXT_TOKEN = "fusegpt.recovery.healing.next_token:next_token"

FINISHES: dict[str, Method[FinishSettings]] = {
    "lora": Method(_NEXT_TOKEN, f"{_SETTINGS}.finish:LoraFinish"),
    "full": Method(_NEXT_TOKEN, f"{_SETTINGS}.finish:Full"),
    "distill": Method("fusegpt.recovery.healing.distill:distill", f"{_SETTINGS}.finish:Distill"),
}
