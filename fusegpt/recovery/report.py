"""What every recovery returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["RecoveryReport"]


@dataclass(frozen=True)
class RecoveryReport:
    """What a recovery did to the model.

    Attributes:
        changed: Names of the parameters it changed, ``blocks.<dense index>.<parameter>``.
        group: Dense indices of the blocks it tuned, ascending; empty when it tuned none.
        fused_into: Dense indices of the blocks that received the removed unit's weights.
        rows: One row per optimiser step: step, epoch, loss, learning_rate. A closed form has two:
            the loss of the plain removal, and its own.
        trainable_parameters: Trainable parameters.
        tokens: Tokens that were trained or fitted on, all epochs counted.
        optimizer_steps: Steps of the optimiser; 0 for a closed form.
        flops: Estimate of all arithmetic, by ``fusegpt.work``.
        undone: Whether a training or a fit ended worse than it began, so that nothing of it was
            kept.
        attempts: How often a training was begun; its cost is that of all attempts.
        compiled: Whether compiled blocks were trained.
    """

    changed: list[str] = field(default_factory=list)
    group: list[int] = field(default_factory=list)
    fused_into: list[int] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    trainable_parameters: int = 0
    tokens: int = 0
    optimizer_steps: int = 0
    flops: float = 0.0
    undone: bool = False
    attempts: int = 1
    compiled: bool = False

    @property
    def mishaps(self) -> dict[str, Any]:
        """What of ``undone``, ``attempts`` and ``compiled`` is unusual, for the record."""
        marks = {"undone": self.undone, "compiled": self.compiled}
        found: dict[str, Any] = {name: True for name, mark in marks.items() if mark}
        return found | ({"attempts": self.attempts} if self.attempts > 1 else {})
