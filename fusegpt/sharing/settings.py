"""Settings of the methods that share weights among blocks."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any, ClassVar, Literal

from pydantic import Field

from fusegpt.config import Fraction, LearningRate, NonNegativeInt, PositiveInt
from fusegpt.errors import ConfigError
from fusegpt.recovery.settings.families import Tuning
from fusegpt.slicegpt.settings import WidthSettings
from fusegpt.units import part_of

__all__ = ["FlexiGpt", "FoldGpt"]

STORED: Any = Field(
    default="compact",
    description="Store shared matrices once, for which transformers needs one import; or write"
    " every block out, as large as the dense model, for every program.",
)


class FlexiGpt(WidthSettings):
    """Let the least important blocks compute with the weights of the most similar other block."""

    paper: ClassVar[str] = "FlexiGPT, arXiv 2501.14713"

    rank: PositiveInt = Field(
        default=32, description="Rank of the adapter that each shared matrix gets."
    )
    epochs: NonNegativeInt = Field(
        default=3, description="Passes over the windows that adapters are tuned for; 0: none."
    )
    learning_rate: LearningRate = Field(
        default=1e-3, description="Peak learning rate; it falls along a cosine to zero."
    )
    loss: Literal["mse", "mse_token", "huber", "cosine"] = Field(
        default="mse_token",
        description="Loss between the states that leave a block and those that left the replaced"
        " one.",
    )
    stored: Literal["compact", "expanded"] = STORED

    @property
    def takes_gradients(self) -> bool:
        """Whether gradients go back through the model; those of the tuning do."""
        return self.epochs > 0

    def tuning(self) -> Tuning:
        """Return how the adapters of one block are tuned."""
        return Tuning(epochs=self.epochs, batch_size=1, learning_rate=self.learning_rate)

    def check_sparsity(self, blocks: int, sparsity: Decimal | float | str, where: str) -> None:
        """Refuse a sparsity that leaves no block to share with."""
        if part_of(blocks, sparsity) >= blocks:
            raise ConfigError(
                f"{where}: {sparsity} of {blocks} blocks leaves none to share with; lower it"
            )


class FoldGpt(WidthSettings):
    """Remove some blocks, let the others share weights in groups, and teach the last states."""

    paper: ClassVar[str] = "FoldGPT, arXiv 2407.00928"

    removed: Fraction = Field(
        default=0.5,
        description="Part of the blocks in question that are removed, those whose gates close"
        " first; the others share weights.",
    )
    group_size: PositiveInt = Field(
        default=2, description="Blocks that share one block's weights, that one included, at most."
    )
    rank: PositiveInt = Field(
        default=32, description="Rank of the update that each shared matrix gets."
    )
    epochs: NonNegativeInt = Field(
        default=3, description="Passes over the windows that the groups are tuned for; 0: none."
    )
    learning_rate: LearningRate = Field(
        default=1e-3, description="Peak learning rate; it falls along a cosine to zero."
    )
    loss: Literal["mse", "mse_token", "huber", "cosine"] = Field(
        default="mse_token",
        description="Loss between the states that leave the last block and those that left the"
        " dense model's.",
    )
    stored: Literal["compact", "expanded"] = STORED

    @property
    def takes_gradients(self) -> bool:
        """Whether gradients go back through the model; those of the gates and of the tuning do."""
        return self.removed > 0 or self.epochs > 0

    def tuning(self) -> Tuning:
        """Return how the groups are tuned."""
        return Tuning(epochs=self.epochs, batch_size=1, learning_rate=self.learning_rate)

    def counts(self, blocks: int, sparsity: Decimal | float | str) -> tuple[int, int]:
        """Return how many of some blocks are removed, and how many share weights."""
        count = part_of(blocks, sparsity)
        gone = int(count * Decimal(str(self.removed)))
        return gone, count - gone

    def check_sparsity(self, blocks: int, sparsity: Decimal | float | str, where: str) -> None:
        """Refuse more shared blocks than groups have room for."""
        gone, shared = self.counts(blocks, sparsity)
        left = blocks - gone
        room = left - math.ceil(left / self.group_size)
        if shared > room:
            raise ConfigError(
                f"{where}: {shared} of {left} blocks would share weights, and groups of"
                f" {self.group_size} have room for {room}; lower it, or raise width.group_size or"
                " width.removed"
            )
