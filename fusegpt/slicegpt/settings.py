"""Settings of the width methods, and what they cost."""

from __future__ import annotations

from decimal import Decimal
from typing import ClassVar, Literal

from pydantic import Field

from fusegpt.config import PositiveInt
from fusegpt.methods import Settings
from fusegpt.work import Stage, Work

__all__ = ["SliceGpt", "WidthSettings"]


class WidthSettings(Settings):
    """Settings of a width method; a method counts its work here, if it is counted."""

    @property
    def takes_gradients(self) -> bool:
        """Whether gradients go back through the model, which float16 is too narrow for."""
        return False

    def work(self, stage: Stage) -> Work:
        """Return what slicing at one sparsity does; ``None`` where it is not counted."""
        return Work(passes=None, tokens=None, flops=None)

    def check_sparsity(self, blocks: int, sparsity: Decimal | float | str, where: str) -> None:
        """Refuse a sparsity that a model with so many blocks has no room for; most have for all.

        Args:
            blocks: Number of blocks.
            sparsity: In [0, 1).
            where: Name of the sparsity in messages.

        Raises:
            ConfigError: The message says what to change.
        """


class SliceGpt(WidthSettings):
    """Rotate every hidden state to its principal components, block by block, and cut."""

    paper: ClassVar[str] = "SliceGPT, arXiv 2401.15024, Sections 3.2 to 3.4, Eq. 8 and 9"

    round_interval: PositiveInt = Field(
        default=8, description="Number that the sliced size is a multiple of, rounded down."
    )
    orientation: Literal["random", "pca"] = Field(
        default="random",
        description="Turn the kept components among each other, which changes no output but spreads"
        " large values, or leave them sorted.",
    )
    signal: Literal["residual", "normed"] = Field(
        default="residual",
        description="Take components of the residual stream itself, as the released code does, or"
        " of what the norm makes of it, as in Eq. 8.",
    )
    slice_head: bool = Field(
        default=False, description="Also slice what enters the last norm and the head."
    )

    def work(self, stage: Stage) -> Work:
        """Return one pass over all windows at dense size, which is at most what slicing takes.

        What finding the components takes is not counted.
        """
        flops = stage.forward(stage.dense, stage.sequences)
        return Work(passes=stage.dense, tokens=stage.sequences * stage.length, flops=flops)
