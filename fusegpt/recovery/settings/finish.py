"""Settings of the finishes: what trains the whole pruned model once, after its last removal."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from fusegpt.config import (
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    added_later,
)
from fusegpt.errors import ConfigError
from fusegpt.methods import RecipeLike, Settings, WindowsLike
from fusegpt.recovery.settings.types import BatchSize, Epochs, PeakRate, Shuffle
from fusegpt.work import Stage, Work

__all__ = ["Distill", "FinishSettings", "Full", "LoraFinish", "Trains"]

UNITS = {"k": 10**3, "M": 10**6, "B": 10**9}


def _count(value: Any) -> Any:
    """``2M`` is two million, ``500k`` half a million, ``1.5B`` one and a half billion."""
    if not isinstance(value, str) or value[-1:] not in UNITS:
        return value
    try:
        return round(float(value[:-1]) * UNITS[value[-1]])
    except (ValueError, OverflowError):
        return value


Tokens = Annotated[
    PositiveInt,
    BeforeValidator(_count, json_schema_input_type=int | str),
]
Trains = Literal["full", "all", "gaps", "lora"]
WHAT = (
    "Every remaining block; these with embeddings, last norm and output matrix (all); or the blocks"
    " beside removed units alone (gaps)"
)
Rank = Annotated[PositiveInt, Field(description="Rank of the update of each layer.")]
Alpha = Annotated[
    PositiveFloat, Field(description="The update is multiplied by this number over the rank.")
]


class FinishSettings(Settings):
    """Settings that every finish has."""

    epochs: Epochs = 3
    tokens: Tokens | None = Field(
        default=None,
        description="Tokens to train on, such as 2M, in place of epochs: the windows are taken"
        " as often as needed.",
    )
    batch_size: BatchSize = 8
    micro_batch_size: PositiveInt = Field(
        default=2, description="Sequences that run at once; changes results by rounding only."
    )
    learning_rate: PeakRate = 3e-4
    warmup: Fraction = Field(
        default=0.05, description="Fraction of the steps in which the learning rate rises."
    )
    warmup_steps: Annotated[
        PositiveInt | None, added_later(None, "Number of those steps, in place of the fraction.")
    ] = None
    decay: Annotated[
        Literal["cosine", "constant"],
        added_later(
            "cosine",
            "What the learning rate does after its rise: fall along a cosine to zero, or stay.",
        ),
    ] = "cosine"
    clip_norm: NonNegativeFloat = Field(
        default=1.0, description="Largest norm of the gradient; 0 sets no limit."
    )
    shuffle: Shuffle = False
    checkpointing: bool = Field(
        default=False,
        description="Compute the states inside each block again on the way back; the results are"
        " the same, with less memory and more time.",
    )
    chunk: PositiveInt = Field(
        default=256,
        description="Positions of a window whose logits exist at one time; changes results by"
        " rounding only.",
    )

    @property
    def trains(self) -> Trains:
        """What is trained."""
        return "full"

    @property
    def update(self) -> tuple[int, float]:
        """Rank and alpha of the updates, where updates are trained in place of weights."""
        return 0, 0.0

    def steps(self, sequences: int, length: int) -> int:
        """Return the number of optimiser steps on so many windows; a ragged batch is dropped."""
        if self.tokens is not None:
            return self.tokens // (self.batch_size * length)
        return sequences // self.batch_size * self.epochs

    def check_windows(self, spec: WindowsLike, where: str) -> None:
        """Refuse windows that fill no batch or hold no next token, and a budget below one step.

        Args:
            spec: The windows that the finish reads.
            where: Name of the recipe in messages.
        """
        if spec.rows is None and spec.sequences < self.batch_size:
            raise ConfigError(
                f"{where}.finish.windows.sequences: must fill one batch of {self.batch_size}, got"
                f" {spec.sequences}"
            )
        if spec.length < 2:
            raise ConfigError(
                f"{where}.finish.windows.length: must be at least 2, got {spec.length}; a finish"
                " predicts the next token"
            )
        step = self.batch_size * spec.length
        if self.tokens is not None and self.tokens < step:
            raise ConfigError(
                f"{where}.finish.tokens: must be at least {step}, one optimiser step, got"
                f" {self.tokens}"
            )
        steps = self.steps(spec.sequences, spec.length)
        if spec.rows is None and self.warmup_steps is not None and self.warmup_steps >= steps:
            raise ConfigError(
                f"{where}.finish.warmup_steps: must be below the {steps} optimiser steps, got"
                f" {self.warmup_steps}"
            )

    def work(self, stage: Stage) -> Work:
        """Return the work of training; ``gaps`` counts at most."""
        steps = self.steps(stage.sequences, stage.length)
        tokens, shape = steps * self.batch_size * stage.length, stage.shape
        blocks = stage.left if self.trains != "gaps" else min(stage.left, 2 * stage.number)
        each = shape.sides * self.update[0] if self.trains == "lora" else shape.block
        trainable = blocks * each
        flops = stage.heads(tokens)
        if self.trains == "all":
            trainable += shape.total - stage.dense * shape.block
            flops *= 1.5  # the output matrix has a gradient, too
        flops += stage.training(blocks, tokens, adapters=self.trains == "lora")
        flops += stage.training(stage.left - blocks, tokens, adapters=True)
        if self.checkpointing:
            flops += stage.forward(stage.left, steps * self.batch_size)
        return Work(0, tokens, steps, trainable, flops)


class Full(FinishSettings):
    """Train the weights of the remaining blocks by the loss of the next token."""

    paper: ClassVar[str] = "Shortened LLaMA, arXiv 2402.02834, continued pretraining"

    train: Literal["full", "all", "gaps"] = Field(default="full", description=f"{WHAT}.")

    @property
    def trains(self) -> Trains:
        """What is trained."""
        return self.train


class LoraFinish(FinishSettings):
    """Train low-rank updates of the remaining blocks by the loss of the next token."""

    paper: ClassVar[str] = "Shortened LLaMA, arXiv 2402.02834; LoRA, arXiv 2106.09685"

    lora_rank: Rank = 8
    lora_alpha: Alpha = 16.0

    @property
    def trains(self) -> Trains:
        """What is trained."""
        return "lora"

    @property
    def update(self) -> tuple[int, float]:
        """Rank and alpha of the updates."""
        return self.lora_rank, self.lora_alpha


class Distill(FinishSettings):
    """Train the pruned model to answer as the dense model, or another teacher, does."""

    paper: ClassVar[str] = "Hinton et al., arXiv 1503.02531"

    train: Trains = Field(
        default="full",
        description=f"{WHAT}; or low-rank updates of all blocks (lora).",
    )
    lora_rank: Rank = 8
    lora_alpha: Alpha = 16.0
    teacher: str | None = Field(
        default=None,
        description="Name of a model of the configuration with the same vocabulary; absent: the"
        " dense model.",
    )
    temperature: PositiveFloat = Field(
        default=1.0, description="What the logits of both models are divided by."
    )
    next_token: Fraction = Field(
        default=0.0, description="Share of the loss of the next token; the rest is the teacher's."
    )
    hidden: NonNegativeFloat = Field(
        default=0.0,
        description="Weight of a term that draws the states between the remaining blocks to those"
        " of the dense model, which then runs beside the pruned one.",
    )
    top_k: PositiveInt | None = Field(
        default=64,
        description="Number of the teacher's likeliest tokens that are kept for each position; the"
        " others count as one. null: the whole distribution.",
    )

    @property
    def trains(self) -> Trains:
        """What is trained."""
        return self.train

    @property
    def update(self) -> tuple[int, float]:
        """Rank and alpha of the updates, where updates are trained."""
        return self.lora_rank, self.lora_alpha

    def check(self, recipe: RecipeLike, where: str) -> None:
        """Refuse terms between blocks of a teacher whose blocks correspond to nothing."""
        if self.hidden and self.teacher is not None:
            raise ConfigError(
                f"{where}.finish.hidden: must be 0 with teacher {self.teacher!r}; only the blocks"
                " of the dense model correspond to those that remain"
            )

    def work(self, stage: Stage) -> Work:
        """Return the work of training and of the dense model's answers, once for each window."""
        work = super().work(stage)
        assert work.flops is not None and work.tokens is not None
        once = stage.sequences * stage.length
        flops = stage.forward(stage.dense, stage.sequences) + stage.heads(once) / 2
        if self.hidden:
            flops += stage.forward(stage.dense, work.tokens // stage.length)
        return Work(0, work.tokens, work.optimizer_steps, work.trainable, work.flops + flops)
