"""Settings of the recoveries that tune the group around a removed unit."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from fusegpt.config import NonNegativeInt, PositiveInt
from fusegpt.errors import ConfigError
from fusegpt.methods import RecipeLike
from fusegpt.recovery.settings.families import GroupTuned, Tuning
from fusegpt.recovery.settings.types import (
    BatchSize,
    ClipNorm,
    Epochs,
    Fold,
    GroupLoss,
    GroupSize,
    Keep,
    PeakRate,
    Retries,
    Shuffle,
    Teacher,
    TrainableDtype,
    TrainNorms,
    Warmup,
)
from fusegpt.work import Stage, Work

__all__ = ["Finetune", "Fusion"]


class Finetune(GroupTuned):
    """Tune the neighbours of a removed unit by low-rank updates, without its weights."""

    paper: ClassVar[str] = 'FuseGPT, arXiv 2411.14507, Section IV-C, Table IV, "MI + fine-tuning"'

    group_size: GroupSize = 7
    lora_rank: PositiveInt = Field(
        default=128, description="Rank of the low-rank update of each weight."
    )
    loss: GroupLoss = "kl_batch"
    teacher: Teacher = "current"
    epochs: Epochs = 20
    batch_size: BatchSize = 8
    learning_rate: PeakRate = 9.65e-6
    shuffle: Shuffle = False
    train_norms: TrainNorms = False
    trainable_dtype: TrainableDtype = "float32"
    fold: Fold = "each_step"
    warmup: Warmup = 0.0
    clip_norm: ClipNorm = 0.0
    keep: Keep = "last"
    retries: Retries = 0

    def work(self, stage: Stage) -> Work:
        """Return the work of the update's factors."""
        return self.adapters(stage, 0, 0)


class Fusion(GroupTuned):
    """Fuse a removed unit's weights into its neighbours, and tune the group lightly."""

    paper: ClassVar[str] = "FuseGPT, arXiv 2411.14507, Section III-D, Eq. 5-10, Algorithm 1"
    lowers_memory: ClassVar[tuple[str, ...]] = ("group_size", "rank", "lora_rank", "batch_size")

    group_size: GroupSize = 7
    rank: PositiveInt = Field(
        default=128, description="Rank of the coefficients that a fused weight is multiplied by."
    )
    lora_rank: NonNegativeInt = Field(
        default=128,
        description="Rank of the low-rank update of each weight; 0 trains coefficients only.",
    )
    donor: Literal["removed", "self", "shuffled", "random"] = Field(
        default="removed",
        description="Whose weights are fused: the removed unit's, or a control of what they are"
        " worth: the neighbour's own, the removed unit's in a random order, or noise.",
    )
    loss: GroupLoss = "kl_batch"
    teacher: Teacher = "current"
    epochs: Epochs = 20
    batch_size: BatchSize = 8
    learning_rate: PeakRate = 9.65e-6
    coefficient_learning_rate: PeakRate = Field(
        default=1e-3, description="Peak learning rate of the coefficients, along the same cosine."
    )
    shuffle: Shuffle = False
    train_norms: TrainNorms = False
    trainable_dtype: TrainableDtype = "float32"
    fold: Fold = "each_step"
    warmup: Warmup = 0.0
    clip_norm: ClipNorm = 0.0
    keep: Keep = "last"
    retries: Retries = 0

    def check(self, recipe: RecipeLike, where: str) -> None:
        """Refuse norms that would have nothing to train."""
        super().check(recipe, where)
        if self.train_norms and not self.lora_rank and self.donor != "self":
            raise ConfigError(
                f"{where}.recovery.train_norms: needs a lora_rank above 0; norms get no"
                " coefficients, since nothing is lent to them"
            )

    def tuning(self) -> Tuning:
        """Return how the group is tuned; coefficients have a learning rate of their own."""
        return replace(super().tuning(), coefficient_learning_rate=self.coefficient_learning_rate)

    def work(self, stage: Stage) -> Work:
        """Return the work of updates and coefficients; unfolded donors of all steps count."""
        return self.adapters(stage, self.rank, stage.number if self.fold == "at_end" else 1)

    def copies(self, stage: Stage) -> int:
        """Return the frozen weights and gradients of the group, and the removed unit's weights."""
        return super().copies(stage) + 1
