"""Types of the settings that several recoveries have, each with its meaning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fusegpt.config import Dtype as AnyDtype
from fusegpt.config import (
    Fraction,
    LearningRate,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    added_later,
)

__all__ = [
    "BatchSize",
    "Clip",
    "ClipNorm",
    "Epochs",
    "Fit",
    "Fold",
    "GroupLoss",
    "GroupSize",
    "Holdout",
    "Keep",
    "PeakRate",
    "Retries",
    "Ridge",
    "Shuffle",
    "Teacher",
    "TrainNorms",
    "TrainableDtype",
    "Warmup",
]

GroupSize = Annotated[
    PositiveInt, Field(description="Number of neighbours around the removed unit that are tuned.")
]
GroupLoss = Annotated[
    Literal["kl_batch", "kl_hidden", "mse", "cosine", "mse_token", "huber"],
    Field(description="Loss between the hidden states that leave the group and the teacher's."),
]
Teacher = Annotated[
    Literal["current", "original"],
    Field(
        description="Model whose hidden states are the target: the one as pruned so far, or the"
        " dense one, against drift."
    ),
]
Epochs = Annotated[PositiveInt, Field(description="Passes over the fine-tuning windows.")]
BatchSize = Annotated[PositiveInt, Field(description="Sequences of one optimiser step.")]
PeakRate = Annotated[
    LearningRate, Field(description="Peak learning rate; it falls along a cosine to zero.")
]
Warmup = Annotated[
    Fraction,
    added_later(
        0.0,
        "Share of the optimiser steps in which the learning rates rise to their peak along a line.",
    ),
]
ClipNorm = Annotated[
    NonNegativeFloat,
    added_later(
        0.0,
        "Largest norm of all gradients of a step together; longer ones are shortened; 0 sets no"
        " limit.",
    ),
]
Keep = Annotated[
    Literal["last", "best"],
    added_later(
        "last",
        "Keep the weights after the last epoch, or those after the epoch with the lowest loss over"
        " all windows.",
    ),
]
Retries = Annotated[
    NonNegativeInt,
    added_later(
        0,
        "Number of times that a training which ended above its first loss is begun anew, each time"
        " with half the learning rates, before it is undone.",
    ),
]
Shuffle = Annotated[bool, Field(description="Draw a new order of the batches for each epoch.")]
TrainNorms = Annotated[bool, Field(description="Also tune the norms of the group.")]
TrainableDtype = Annotated[
    AnyDtype,
    Field(description="Type of the trainable factors; bfloat16 reproduces the published dynamics."),
]
Fold = Annotated[
    Literal["each_step", "at_end"],
    Field(
        description="Fold everything into plain weights after each step, or let earlier terms go"
        " on training until the end."
    ),
]
Fit = Annotated[
    Literal["closed_form", "learned"],
    Field(description="Find the map at once, or train it by mean squared error."),
]
Holdout = Annotated[
    Fraction,
    Field(
        description="Fraction of the windows, the last ones, on which the closed form must beat"
        " the plain removal."
    ),
]
Clip = Annotated[
    NonNegativeFloat,
    Field(
        description="Number of usual tokens that one token counts at most in a closed form; 0 sets"
        " no limit."
    ),
]
Ridge = Annotated[
    NonNegativeFloat,
    Field(
        description="Strength of the ridge of a closed form, in mean squared features; it draws"
        " the map to the plain removal."
    ),
]
