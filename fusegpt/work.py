"""What a job does, before it runs: the size of a model's blocks, and the work that follows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from fusegpt.config import NonNegativeInt, Strict

__all__ = ["Passes", "Scoring", "Shape", "Work", "total"]


class Shape(Strict):
    """Size of one block, as the mean of all, and of the model.

    Attributes:
        values: Number of values in the block's matrices.
        sides: Sum of the inputs and outputs of these matrices.
        width: Size of the hidden states.
        biases: Number of values in the biases of these matrices.
        rest: Number of values in its norms and whatever else it has.
        vocab: Number of entries of the vocabulary.
        total: Number of values in the whole model.
    """

    values: NonNegativeInt
    sides: NonNegativeInt
    width: NonNegativeInt
    biases: NonNegativeInt = 0
    rest: NonNegativeInt = 0
    vocab: NonNegativeInt = 0
    total: NonNegativeInt = 0


@dataclass(frozen=True)
class Work:
    """What a job does; ``None``: not counted for this method, or the model is not here yet.

    Attributes:
        passes: Number of block forward passes of the calibration windows.
        tokens: Calibration tokens of a pass, or tokens that are tuned on, all epochs counted.
        optimizer_steps: Number of steps of the optimiser.
        trainable: Number of trainable parameters, at most.
        flops: Floating-point operations by the rules of this module, at most.
    """

    passes: float | None = 0
    tokens: int | None = 0
    optimizer_steps: int | None = 0
    trainable: int | None = 0
    flops: float | None = 0.0


@dataclass(frozen=True)
class Scoring:
    """One round of scoring, as a metric counts its passes from it.

    Attributes:
        dense: Number of blocks of the dense model.
        blocks: Number of blocks that are there before the step.
        units: Number of units that are scored.
        first: Number of blocks before the first one that may go.
        without_each: Number of block forward passes that run the model whole and then without
            each unit, where the work before the missing unit is shared.
        sublayers: Whether the units are attentions and mlps.
    """

    dense: int
    blocks: int
    units: int
    first: int
    without_each: float
    sublayers: bool


@dataclass(frozen=True)
class Passes:
    """What one window goes through while a metric scores.

    Attributes:
        forward: Number of blocks run forward; one run for one of its sublayers counts whole.
        heads: Number of times that logits are formed.
        backward: Number of blocks run backward.
    """

    forward: float
    heads: float = 0
    backward: int = 0


def total(works: Iterable[Work]) -> Work:
    """Add up; what one of them does not count is not counted. ``trainable`` is the largest."""
    listed = list(works)

    def add(name: str) -> float | None:
        values = [getattr(work, name) for work in listed]
        if None in values:
            return None
        return max(values, default=0) if name == "trainable" else sum(values)

    return Work(**{field.name: add(field.name) for field in fields(Work)})  # type: ignore[arg-type]
