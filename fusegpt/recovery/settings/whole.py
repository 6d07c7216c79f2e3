"""Settings of the recoveries of whole blocks and whole models, and of doing nothing."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from fusegpt.config import NonNegativeInt, PositiveFloat, PositiveInt
from fusegpt.errors import ConfigError
from fusegpt.methods import RecipeLike
from fusegpt.recovery.settings.base import RecoverySettings
from fusegpt.recovery.settings.families import TunedByLoop, Tuning
from fusegpt.recovery.settings.types import (
    BatchSize,
    ClipNorm,
    Epochs,
    Keep,
    PeakRate,
    Retries,
    Shuffle,
    Teacher,
    Warmup,
)
from fusegpt.work import Stage, Work

__all__ = ["Concatenation", "Lora", "NoRecovery", "Streamline"]


class NoRecovery(RecoverySettings):
    """Remove the unit and do nothing else."""

    needs_windows: ClassVar[bool] = False
    acts: ClassVar[bool] = False
    runs: ClassVar[bool] = True
    sublayers: ClassVar[bool] = True
    masks: ClassVar[bool] = True

    @property
    def streams(self) -> bool:
        """Yes: it reads no weight."""
        return True

    def work(self, stage: Stage) -> Work:
        """Return no work."""
        return Work()


class Concatenation(RecoverySettings):
    """Give the block before a removed one the most sensitive heads and channels of both."""

    paper: ClassVar[str] = "CoMe, arXiv 2510.15304"
    masks: ClassVar[bool] = True

    search: NonNegativeInt = Field(
        default=0,
        description="Number of steps from 0 to 1 in which the first block's share is tried by the"
        " loss of the next token; 0: shares follow the Block Influence of both.",
    )

    @property
    def needs_before(self) -> bool:
        """Whether it changes the block before the removed one; it does."""
        return True

    @property
    def predicts_next_token(self) -> bool:
        """Whether it is judged by the loss of the next token; a search is."""
        return self.search > 0

    def work(self, stage: Stage) -> Work:
        """Return the work of one pass, and of one for each share that is tried."""
        passes = self.search + 1 if self.search else 0
        flops = stage.forward(stage.blocks, stage.sequences)
        tokens = stage.sequences * stage.length
        flops += passes * (stage.forward(stage.left, stage.sequences) + stage.heads(tokens) / 2)
        return Work(0, tokens, 0, 0, flops)


class Streamline(TunedByLoop):
    """Train the block before a removed one, or a run of them, to do the work of all."""

    paper: ClassVar[str] = "LLM-Streamline, arXiv 2403.19135"
    runs: ClassVar[bool] = True
    masks: ClassVar[bool] = True
    lowers_memory: ClassVar[tuple[str, ...]] = ("batch_size",)

    loss: Literal["kl_batch", "kl_hidden", "mse", "cosine", "mse_token", "huber", "next_token"] = (
        Field(
            default="mse",
            description="Loss between the neighbour's output and the removed block's; or the loss"
            " of the next token of the whole pruned model, which knows no teacher.",
        )
    )
    teacher: Teacher = "current"
    epochs: Epochs = 1
    batch_size: BatchSize = 8
    learning_rate: PeakRate = 2e-4
    shuffle: Shuffle = False
    warmup: Warmup = 0.0
    clip_norm: ClipNorm = 0.0
    keep: Keep = "last"
    retries: Retries = 0

    @property
    def predicts_next_token(self) -> bool:
        """Whether it is tuned by the loss of the next token."""
        return self.loss == "next_token"

    @property
    def streams(self) -> bool:
        """Yes, where the loss needs no more than the trained block."""
        return self.loss != "next_token"

    def check(self, recipe: RecipeLike, where: str) -> None:
        """Refuse a teacher that the loss does not know, and the batch-axis loss on one sequence."""
        self.check_batch_loss(self.loss, where)
        if self.loss == "next_token" and self.teacher == "original":
            raise ConfigError(
                f"{where}.recovery.teacher: must be 'current' with loss 'next_token', which knows"
                " no teacher"
            )

    def tuning(self) -> Tuning:
        """Return how the neighbour is trained."""
        return Tuning(
            self.epochs,
            self.batch_size,
            self.learning_rate,
            loss=self.loss,
            teacher=self.teacher,
            shuffle=self.shuffle,
            warmup=self.warmup,
            clip_norm=self.clip_norm,
            keep=self.keep,
            retries=self.retries,
        )

    def work(self, stage: Stage) -> Work:
        """Return the work of training one whole block.

        By the next token, all other blocks count as if they lay behind the one that trains.
        """
        trainable = stage.shape.values + stage.shape.biases + stage.shape.rest
        if self.loss != "next_token":
            return self.tuned(stage, trainable, 1)
        loop = super().work(stage)
        assert loop.tokens is not None
        flops = stage.training(1, loop.tokens) + stage.heads(loop.tokens)
        flops += stage.training(stage.left - 1, loop.tokens, adapters=True)
        return Work(0, loop.tokens, loop.optimizer_steps, trainable, flops)

    def kept_states(self, stage: Stage) -> int:
        """Return the states that are kept meanwhile; the loss of the next token keeps none."""
        return 0 if self.loss == "next_token" else super().kept_states(stage)


class Lora(TunedByLoop):
    """Train low-rank updates of the whole pruned model by the loss of the next token."""

    paper: ClassVar[str] = "Shortened LLaMA, arXiv 2402.02834; LoRA, arXiv 2106.09685"
    when: ClassVar[Literal["step", "end"]] = "end"
    sublayers: ClassVar[bool] = True
    masks: ClassVar[bool] = True
    lowers_memory: ClassVar[tuple[str, ...]] = ("micro_batch_size", "lora_rank")

    lora_rank: PositiveInt = Field(default=8, description="Rank of the update of each layer.")
    lora_alpha: PositiveFloat = Field(
        default=16.0, description="The update is multiplied by this number over the rank."
    )
    epochs: Epochs = 2
    batch_size: BatchSize = 64
    micro_batch_size: PositiveInt = Field(
        default=8,
        description="Sequences that run at once; changes results by rounding only.",
    )
    learning_rate: PeakRate = 1e-4
    shuffle: Shuffle = False

    @property
    def predicts_next_token(self) -> bool:
        """Whether it is tuned by the loss of the next token; it is."""
        return True

    def work(self, stage: Stage) -> Work:
        """Return the work of training factors beside every matrix of all remaining blocks."""
        loop = super().work(stage)
        assert loop.tokens is not None
        flops = stage.training(stage.left, loop.tokens, adapters=True) + stage.heads(loop.tokens)
        trainable = stage.left * stage.shape.sides * self.lora_rank
        return Work(0, loop.tokens, loop.optimizer_steps, trainable, flops)

    def kept_states(self, stage: Stage) -> int:
        """Return no states: all blocks run for each batch."""
        return 0
