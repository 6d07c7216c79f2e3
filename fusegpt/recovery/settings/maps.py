"""Settings of the recoveries that fold a map into the matrix before a removed unit."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field

from fusegpt.config import LearningRate, PositiveInt
from fusegpt.errors import ConfigError
from fusegpt.methods import RecipeLike
from fusegpt.recovery.settings.families import ClosedForm, ClosedOrLearned, Tuning
from fusegpt.recovery.settings.types import (
    BatchSize,
    Clip,
    Epochs,
    Fit,
    Holdout,
    PeakRate,
    Ridge,
    Teacher,
)
from fusegpt.work import Stage, Work

__all__ = ["AdditiveBias", "LeastSquares", "LowRank", "Magnitude"]


def _check_teacher(teacher: str, recipe: RecipeLike, where: str) -> None:
    """Refuse the dense model as teacher of a sublayer."""
    if recipe.granularity != "block" and teacher == "original":
        raise ConfigError(
            f"{where}.recovery.teacher: {recipe.method} fits one sublayer at a time to the current"
            " model; 'original' is for whole blocks"
        )


class AdditiveBias(ClosedOrLearned):
    """Add a removed unit's mean update by a bias before it."""

    paper: ClassVar[str] = "Siddiqui et al., arXiv 2407.16286, emulation adapters"

    fit: Fit = "closed_form"
    clip: Clip = 5.0
    holdout: Holdout = 0.25
    epochs: Epochs = 1
    batch_size: BatchSize = 8
    learning_rate: PeakRate = 1e-2

    def tuning(self) -> Tuning:
        """Return how the bias is learned."""
        return Tuning(self.epochs, self.batch_size, self.learning_rate)

    def work(self, stage: Stage) -> Work:
        """Return the work of one bias."""
        return self.work_of(stage, stage.shape.width)


class LowRank(ClosedOrLearned):
    """Emulate a removed unit by a low-rank map of what the matrix before it adds."""

    paper: ClassVar[str] = "Siddiqui et al., arXiv 2407.16286, emulation adapters"

    fit: Fit = "closed_form"
    rank: PositiveInt = Field(default=64, description="Rank of the map.")
    teacher: Teacher = "current"
    ridge: Ridge = 0.1
    clip: Clip = 5.0
    holdout: Holdout = 0.25
    epochs: Epochs = 1
    batch_size: BatchSize = 8
    learning_rate: PeakRate = 1e-3

    def check(self, recipe: RecipeLike, where: str) -> None:
        """Refuse the dense model as teacher of a sublayer."""
        super().check(recipe, where)
        _check_teacher(self.teacher, recipe, where)

    def tuning(self) -> Tuning:
        """Return how the map is learned."""
        return Tuning(self.epochs, self.batch_size, self.learning_rate, teacher=self.teacher)

    def seen_blocks(self, stage: Stage) -> int:
        """Return how many blocks the fitted windows run through."""
        return stage.dense if self.teacher == "original" else stage.blocks

    def work(self, stage: Stage) -> Work:
        """Return the work of the map's two factors."""
        return self.work_of(stage, 2 * stage.shape.width * self.rank)


class LeastSquares(ClosedForm):
    """Replace a removed unit by a linear map that folds into the matrix before it."""

    paper: ClassVar[str] = "ReplaceMe, arXiv 2505.02819, least squares and cosine"
    sublayers: ClassVar[bool] = True
    lowers_memory: ClassVar[tuple[str, ...]] = ("cosine_batch_size",)

    fit: Literal["closed_form", "cosine"] = Field(
        default="closed_form",
        description="Least squares, or Adam on the cosine of the hidden states behind the gap, for"
        " which neither ridge nor clip matters.",
    )
    teacher: Teacher = "current"
    ridge: Ridge = 0.1
    clip: Clip = 5.0
    holdout: Holdout = 0.25
    cosine_epochs: PositiveInt = Field(
        default=10, description="Passes over the windows; with the cosine only."
    )
    cosine_batch_size: PositiveInt = Field(
        default=1, description="Sequences of one step of Adam; with the cosine only."
    )
    cosine_learning_rate: LearningRate = Field(
        default=1e-4,
        description="Peak learning rate, along a cosine to zero; with the cosine only.",
    )

    @property
    def needs_before(self) -> bool:
        """Whether it changes the block before the removed one; it does."""
        return True

    def check(self, recipe: RecipeLike, where: str) -> None:
        """Refuse the dense model as teacher of a sublayer."""
        super().check(recipe, where)
        _check_teacher(self.teacher, recipe, where)

    @property
    def sees(self) -> int:
        """How often the fitted windows run through the model; the cosine keeps what it saw."""
        return 1 if self.fit == "cosine" else super().sees

    def seen_blocks(self, stage: Stage) -> int:
        """Return how many blocks the fitted windows run through."""
        return stage.dense if self.teacher == "original" else stage.blocks

    def work(self, stage: Stage) -> Work:
        """Return the work of the fit, and with the cosine that of training the map."""
        found = super().work(stage)
        if self.fit != "cosine":
            return found
        assert found.flops is not None
        fitted, trainable = self.fitted(stage), stage.shape.width**2
        tokens = fitted * stage.length * self.cosine_epochs
        steps = self.cosine_epochs * math.ceil(fitted / self.cosine_batch_size)
        return Work(0, tokens, steps, trainable, found.flops + 4.0 * trainable * tokens)

    def kept_states(self, stage: Stage) -> int:
        """Return what the cosine keeps: the matrix's output, and states before and after."""
        return 3 * self.fitted(stage) if self.fit == "cosine" else 0


class Magnitude(ClosedForm):
    """Rescale the hidden states at the gap by what the removed unit made them grow."""

    paper: ClassVar[str] = "Prune&Comp, arXiv 2507.18212; LinearPatch, NeurIPS 2025"

    scale: Literal["stream", "channel", "hadamard"] = Field(
        default="stream",
        description="One factor for all features, taken out of what the blocks behind add; or one"
        " for each feature of what the matrix before the gap adds, as it is or turned by a Hadamard"
        " matrix.",
    )
    holdout: Holdout = 0.25

    @property
    def needs_before(self) -> bool:
        """Whether it changes the block before the removed one; one factor a feature does."""
        return self.scale != "stream"
