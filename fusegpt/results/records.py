"""The records of a pruning run: scores, a teacher's answers, steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from fusegpt.errors import ArtifactError
from fusegpt.results.base import Record, UnitField, check
from fusegpt.results.digests import read_whole
from fusegpt.results.files import FileRecord, Parent, Provenance
from fusegpt.results.recovered import Finish, Recovered, Reranking
from fusegpt.units import Unit

__all__ = [
    "AnswersRecord",
    "Removal",
    "ScoredUnit",
    "Scores",
    "Start",
    "Step",
    "read_manifest",
]


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
