"""Settings of the methods that share weights among blocks."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from fusegpt.config import LearningRate, NonNegativeInt, PositiveInt
from fusegpt.recovery.settings.families import Tuning
from fusegpt.slicegpt.settings import WidthSettings

__all__ = ["FlexiGpt"]


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
    stored: Literal["compact", "expanded"] = Field(
        default="compact",
        description="Store shared matrices once, for which transformers needs one import; or write"
        " every block out, as large as the dense model, for every program.",
    )

    def tuning(self) -> Tuning:
        """Return how the adapters of one block are tuned."""
        return Tuning(epochs=self.epochs, batch_size=1, learning_rate=self.learning_rate)
