"""The records of a pruning run: a fetched model, windows, scores, steps, what recovery spent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from fusegpt.errors import ArtifactError
from fusegpt.results.base import Record, UnitField, check
from fusegpt.results.digests import read_whole
from fusegpt.results.files import FileRecord, Parent, Provenance
from fusegpt.units import Unit

__all__ = [
    "SPENT",
    "AnswersRecord",
    "Finish",
    "Recovered",
    "Removal",
    "Reranking",
    "ScoredUnit",
    "Scores",
    "Start",
    "Step",
    "Training",
    "TrainingRow",
    "Trial",
    "Trials",
    "read_manifest",
]

SPENT = ("trainable_parameters", "tokens", "optimizer_steps", "flops")
"""What a recovery records of its cost; the first is a size, the others add up."""


class ScoredUnit(Record):
    """A unit with its importance, high = keep, and what else the metric says of it."""

    granularity: Literal["block", "attention", "mlp"]
    index: int
    score: float

    @property
    def unit(self) -> Unit:
        """Which unit it is."""
        return Unit(self.granularity, self.index)


class Scores(Record):
    """The importance of every unit before a step: ``scores.json``.

    Attributes:
        units: Every unit that was present and might go.
        selected: The unit that goes; of a run of neighbours the first.
        selected_units: The whole run, where a selection takes one.
    """

    noun: ClassVar[str] = "scores of fusegpt score"

    kind: Literal["scores"] = "scores"
    step: int | None = None
    metric: str
    settings: dict[str, Any] = Field(default_factory=dict)
    units: list[ScoredUnit]
    selected: UnitField | None = None
    selected_units: list[UnitField] | None = None
    seconds: float = 0.0
    memory_gib: float | None = None
    recipe: str | None = None
    seed: int | None = None
    stage_version: int | None = None
    parent: Parent | None = None
    inputs: dict[str, str] = Field(default_factory=dict)
    provenance: Provenance | None = None
    parents: list[Parent] = Field(default_factory=list)

    @property
    def chosen(self) -> list[Unit]:
        """All units that go."""
        if self.selected_units:
            return self.selected_units
        return [] if self.selected is None else [self.selected]


class AnswersRecord(Record):
    """What a teacher says of windows, once for all that learn from it: ``answers.json``.

    Attributes:
        vocab: Tokens of its vocabulary.
        top_k: How many of the likeliest are kept at each position; None: all.
        temperature: What logits are divided by in the mass of the rest.
        sequences: Number of windows.
        length: Tokens of a window; the last one has no next token and no answer.
    """

    noun: ClassVar[str] = "the answers of a teacher"

    kind: Literal["answers"]
    vocab: int
    top_k: int | None = None
    temperature: float
    sequences: int
    length: int
    dtype: str
    flops: float = 0.0
    seconds: float = 0.0
    memory_gib: float | None = None
    stage_version: int | None = None
    parent: Parent | None = None
    inputs: dict[str, str] = Field(default_factory=dict)
    files: dict[str, FileRecord] = Field(default_factory=dict)
    provenance: Provenance | None = None


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
        undone: Whether a training ended worse than it began, so that nothing of it was kept; it
            stands only where that is so.
        attempts: How often a training was begun, where it was more than once; what it took is
            that of all attempts.
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

    @property
    def spent(self) -> dict[str, float]:
        """What the recovery cost; what an older record does not say is missing."""
        values = {name: getattr(self, name) for name in SPENT}
        return {name: value for name, value in values.items() if value is not None}


class Finish(Recovered):
    """A recovery after the last removal, with one row of ``training`` per optimiser step."""

    method: str | None = None
    training: list[TrainingRow] = Field(default_factory=list)


class Removal(Recovered):
    """What one step did: the unit that went, the neighbours that were tuned, what it took.

    Attributes:
        step: Removals so far, this one included.
        unit: What was removed; of a run of neighbours the first.
        units: The whole run, where there is one.
        score: The removed unit's importance.
        next_score: The runner-up's importance.
        removed: Every unit removed so far, in order.
        kept: Dense indices of the blocks that remain.
        group: Dense indices of the blocks that were tuned.
        fused_into: Dense indices of the blocks that received the removed unit's weights.
        finish: The recovery after the last removal, where it followed in the same process.
    """

    noun: ClassVar[str] = "the manifest of a step"

    step: int
    unit: UnitField
    units: list[UnitField] | None = None
    score: float | None = None
    next_score: float | None = None
    removed: list[UnitField] = Field(default_factory=list)
    kept: list[int] = Field(default_factory=list)
    parameters: int | None = None
    group: list[int] = Field(default_factory=list)
    fused_into: list[int] = Field(default_factory=list)
    rerank: Reranking | None = None
    finish: Finish | None = None

    @property
    def gone(self) -> list[Unit]:
        """All units that this step removed: one, or a whole run."""
        return self.units or [self.unit]


class Step(Removal):
    """The manifest of a step, written last."""

    kind: Literal["step"]
    recipe: str | None = None
    seed: int | None = None
    stage_version: int | None = None
    parent: Parent
    inputs: dict[str, str] = Field(default_factory=dict)
    files: dict[str, FileRecord] = Field(default_factory=dict)
    provenance: Provenance | None = None


class Start(Record):
    """The manifest of step 000: the dense model, from which nothing is removed."""

    noun: ClassVar[str] = "the manifest of a step"

    kind: Literal["start"]
    step: int = 0
    removed: list[UnitField] = Field(default_factory=list)
    kept: list[int] = Field(default_factory=list)
    num_blocks: int | None = None
    parameters: int | None = None
    recipe: str | None = None
    seed: int | None = None
    stage_version: int | None = None
    parent: Parent
    provenance: Provenance | None = None


def read_manifest(path: str | Path) -> Start | Step:
    """Read the manifest of a step.

    Raises:
        ArtifactError: It is none; the message names the file and the field.
    """
    value = read_whole(path)
    kind = value.get("kind") if isinstance(value, dict) else None
    if isinstance(value, dict) and kind not in ("start", "step"):
        raise ArtifactError(
            f"{path}: must be the manifest of a step: kind: must be 'start' or 'step',"
            f" got {kind!r}; if it is damaged, delete it and run again"
        )
    return check(value, Start, path) if kind == "start" else check(value, Step, path)
