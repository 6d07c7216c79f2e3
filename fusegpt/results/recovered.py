"""The records of a recovery: its losses row by row, its trials, and what it took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from pydantic import Field

from fusegpt.results.base import Record, UnitField
from fusegpt.units import Unit

__all__ = [
    "SPENT",
    "Finish",
    "Recovered",
    "Reranking",
    "Training",
    "TrainingRow",
    "Trial",
    "Trials",
    "undone_of",
]

SPENT = ("trainable_parameters", "tokens", "optimizer_steps", "flops")
"""What a recovery records of its cost; the first is a size, the others add up."""


class TrainingRow(Record):
    """One optimiser step; a closed form has two, the plain removal and its own result."""

    step: int
    epoch: int = 0
    loss: float
    learning_rate: float | None = None


class Training(Record):
    """The rows of a step's recovery: ``training.json``."""

    noun: ClassVar[str] = "the training rows of a step"

    rows: list[TrainingRow]

    @property
    def first_loss(self) -> float | None:
        """The loss before anything was learned; None when nothing was tuned."""
        return self.rows[0].loss if self.rows else None

    @property
    def last_loss(self) -> float | None:
        """The last loss; None when nothing was tuned."""
        return self.rows[-1].loss if self.rows else None


class Trial(Record):
    """A candidate that was removed and recovered shortly, in a copy of the model."""

    unit: UnitField
    score: float
    result: float
    first_loss: float | None = None
    last_loss: float | None = None
    seconds: float = 0.0
    tokens: int = 0
    optimizer_steps: int = 0
    flops: float = 0.0


class Trials(Record):
    """Finished trials of a step that goes on: ``trials.json``."""

    noun: ClassVar[str] = "finished trials of a step"

    fingerprint: str
    trials: list[Trial]


class Reranking(Record):
    """How a step chose among its best candidates.

    Attributes:
        by: What they were judged by.
        candidates: The trials; the budget of all of them together stands beside.
    """

    by: str
    candidates: list[Trial]
    chosen: UnitField
    tokens: int = 0
    optimizer_steps: int = 0
    flops: float = 0.0

    @classmethod
    def among(cls, by: str, trials: Sequence[Trial], chosen: Unit) -> Reranking:
        """Return the record of finished trials; their budgets are added up."""
        spent = SPENT[1:]
        briefs = [
            {name: value for name, value in trial.to_json().items() if name not in spent}
            for trial in trials
        ]
        totals = {name: sum(getattr(trial, name) for trial in trials) for name in spent}
        values = {"by": by, "candidates": briefs, "chosen": chosen, **totals}
        return cls.model_validate(values)


class Recovered(Record):
    """What a recovery left: its losses, what it took, how long, with how much memory.

    Attributes:
        undone: Whether a training or a fit ended worse than it began, so that nothing of it was
            kept; it stands only where that is so.
        attempts: How often a training was begun, where it was more than once; what it took is
            that of all attempts.
        compiled: Whether compiled blocks were trained (``--compile``); it stands only where that
            is so.
    """

    first_loss: float | None = None
    last_loss: float | None = None
    trainable_parameters: int | None = None
    tokens: int | None = None
    optimizer_steps: int | None = None
    flops: float | None = None
    seconds: float = 0.0
    memory_gib: float | None = None
    undone: bool | None = None
    attempts: int | None = None
    compiled: bool | None = None

    @property
    def spent(self) -> dict[str, float]:
        """What the recovery cost; what an older record does not say is missing."""
        values = {name: getattr(self, name) for name in SPENT}
        return {name: value for name, value in values.items() if value is not None}


class Tuned(Protocol):
    """What a step or a finish says of its training or fit."""

    tokens: int | None
    optimizer_steps: int | None
    undone: bool | None


def undone_of(recoveries: Sequence[Tuned]) -> tuple[int, int]:
    """Return how many trainings and fits were undone, and how many there were."""
    trained = [one for one in recoveries if one.tokens or one.optimizer_steps]
    return sum(bool(one.undone) for one in trained), len(trained)


class Finish(Recovered):
    """A recovery after the last removal, with one row of ``training`` per optimiser step."""

    method: str | None = None
    training: list[TrainingRow] = Field(default_factory=list)
