"""Settings of the recoveries that add a removed unit's weights to a neighbour's by a fixed rule."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from fusegpt.config import Fraction, PositiveInt
from fusegpt.recovery.settings.base import RecoverySettings
from fusegpt.work import Stage, Work

__all__ = ["Laco", "WeightedSum"]


class _Merge(RecoverySettings):
    """Merges that look at no text and train nothing."""

    needs_windows: ClassVar[bool] = False
    runs: ClassVar[bool] = True
    sublayers: ClassVar[bool] = True
    masks: ClassVar[bool] = True

    def work(self, stage: Stage) -> Work:
        """Return no work: sums of weights are not counted."""
        return Work()


class Laco(_Merge):
    """Fold what distinguishes the removed blocks from the one before them into that one."""

    paper: ClassVar[str] = "LaCo, arXiv 2402.11187, RDSC layer merge"

    @property
    def needs_before(self) -> bool:
        """Whether it changes the block before the removed one; it does."""
        return True


class WeightedSum(_Merge):
    """Replace the weights of neighbours by weighted means of theirs and the removed unit's."""

    weight: Fraction = Field(
        default=0.5, description="Weight of the removed unit; the neighbour has the rest."
    )
    group_size: PositiveInt = Field(
        default=1, description="Number of neighbours around the removed unit that take it up."
    )
