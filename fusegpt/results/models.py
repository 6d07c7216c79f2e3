"""The records of finished models and of what was measured: checkpoints, evaluations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import AliasChoices, Field

from fusegpt.errors import ArtifactError
from fusegpt.results import layout
from fusegpt.results.base import Record, UnitField, check, read
from fusegpt.results.digests import read_whole
from fusegpt.results.exports import Export
from fusegpt.results.files import FileRecord, Parent, Provenance, Source
from fusegpt.results.records import Removal, Start, Step, read_manifest
from fusegpt.results.recovered import Finish, Reranking

__all__ = [
    "BriefStep",
    "Checkpoint",
    "EvaluatedModel",
    "Evaluation",
    "Row",
    "Slice",
    "Stored",
    "as_checkpoint",
    "read_checkpoint",
    "read_record",
]


class BriefStep(Record):
    """A step, as the checkpoint that ends with it tells it."""

    step: int | None = None
    unit: UnitField
    score: float | None = None
    next_score: float | None = None
    group: list[int] | None = None
    fused_into: list[int] | None = None
    first_loss: float | None = None
    last_loss: float | None = None
    trainable_parameters: int | None = None
    tokens: int | None = None
    optimizer_steps: int | None = None
    flops: float | None = None
    seconds: float | None = None
    memory_gib: float | None = None
    units: list[UnitField] | None = None
    rerank: Reranking | None = None
    undone: bool | None = None
    attempts: int | None = None
    compiled: bool | None = None

    @classmethod
    def of(cls, step: Removal) -> BriefStep:
        """Return a step without what follows from the others."""
        rare = ("units", "rerank", "undone", "attempts", "compiled")
        always = [name for name in cls.model_fields if name not in rare]
        more = [name for name in rare if getattr(step, name) is not None]
        return cls.model_validate({name: getattr(step, name) for name in (*always, *more)})


class Checkpoint(Record):
    """A directory that transformers loads: ``fusegpt.json``, written last.

    Attributes:
        num_blocks: Blocks of the dense model.
        kept: Dense indices of the blocks that remain.
        removed: Every unit removed, in order.
        fused: What was fused into each remaining unit; keys are a block's index, or
            ``attention 5``.
        target: What was asked for in place of a sparsity, as ``--target`` takes it.
        needs: What must be imported before transformers knows it.
        differs: Sentences on what else differs from the dense model on purpose.
        dtype: That of the computation.
        stored_dtypes: Those of the weights on disk, that of most values first.
        data: What the windows of each role say of themselves.
    """

    noun: ClassVar[str] = "the fusegpt.json of a checkpoint"

    num_blocks: int
    kept: list[int]
    removed: list[UnitField]
    kind: Literal["checkpoint", "slice"] = "checkpoint"
    fused: dict[str, list[int]] = Field(default_factory=dict)
    parameters: int | None = None
    target: str | None = None
    zeroed: bool = False
    needs: str | None = None
    differs: list[str] = Field(default_factory=list)
    dtype: str | None = None
    stored_dtypes: list[str] = Field(default_factory=list)
    recipe_id: str | None = None
    recipe: dict[str, Any] | None = None
    steps: list[BriefStep] = Field(default_factory=list)
    finish: Finish | None = None
    data: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = None
    parent: Parent | None = None
    inputs: dict[str, str] = Field(default_factory=dict)
    seconds: float | None = None
    memory_gib: float | None = None
    stage_version: int | None = None
    provenance: Provenance | None = None
    base_model: str | None = None
    licence: str | None = None
    source: str | None = None
    revision: str | None = None
    files: dict[str, FileRecord] = Field(default_factory=dict)

    @property
    def base_name(self) -> str:
        """The dense model's name without the folder or the organisation that it is in."""
        return (self.base_model or "a language model").rstrip("/").split("/")[-1]

    @property
    def recipe_name(self) -> str | None:
        """The recipe's name, with which its id begins."""
        return self.recipe_id and (self.recipe_id.rpartition("-")[0] or self.recipe_id)


class Slice(Checkpoint):
    """A directory that transformers loads, of a model whose hidden size was cut, or blocks share.

    Attributes:
        needs: What must be imported first; older records leave it out, and all have one form.
        sparsity: Fraction of the hidden size that was asked to go, or of the blocks to share.
        hidden_size: Dimensions of the dense model's hidden states; None: the method does not say.
        width: Dimensions that remain between blocks.
        head_width: Dimensions that remain before the head.
        kept_energy: Share of the calibration signal that each cut kept.
        shared: By the number of a block that computes with another one's weights, that one's.
        spent: What tuning took, where there was any: trainable_parameters, tokens, optimizer_steps,
            flops.
        trainings: How many tunings there were, where there was any; older records do not say.
        undone: How many ended worse than they began; it stands only where one did.
    """

    kind: Literal["slice"]
    needs: str | None = "import fusegpt.slicegpt.modeling"
    sparsity: float
    hidden_size: int | None = None
    width: int | None = None
    head_width: int | None = None
    kept_energy: dict[str, float] = Field(default_factory=dict)
    shared: dict[str, int] = Field(default_factory=dict)
    spent: dict[str, float] = Field(default_factory=dict)
    trainings: int | None = None
    undone: int = 0


class EvaluatedModel(Record):
    """The model that an evaluation measured."""

    num_blocks: int
    kept: list[int]
    removed: list[UnitField] = Field(default_factory=list)
    parameters: int


class Items(Record):
    """One value per item of a row, kept as text.

    Attributes:
        of: The items' fingerprint.
        statistic: How the row's value comes from them.
        strata: Sizes of consecutive groups whose means are averaged.
    """

    of: str
    statistic: str
    strata: list[int] = Field(default_factory=list)
    values: str


class Row(Record):
    """One measured value."""

    task: str
    metric: str
    value: float
    unit: str
    higher_is_better: bool
    num_samples: int
    protocol: dict[str, Any] = Field(default_factory=dict)
    stderr: float | None = None
    note: str = ""
    items: Items | None = None


class Evaluation(Record):
    """The result of one evaluation of one model.

    Attributes:
        eval: Key of the table of evaluations.
        settings: All of them.
        seconds: What measuring took, parts that were measured before included.
        memory_gib: Highest memory; older records call it ``peak_memory_gib``, and there it is
            that of the whole process.
    """

    noun: ClassVar[str] = "an evaluation"

    eval: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    rows: list[Row]
    model: EvaluatedModel
    seconds: float | None = None
    dtype: str | None = None
    memory_gib: float | None = Field(
        default=None, validation_alias=AliasChoices("memory_gib", "peak_memory_gib")
    )
    provenance: Provenance | None = None
    parent: Parent | None = None


class Stored(Record):
    """A part of an evaluation that was measured once, with all that it follows from.

    Attributes:
        model: Digest of the model; older files do not say it.
    """

    noun: ClassVar[str] = "a stored part of an evaluation"

    identity: dict[str, Any]
    result: Any
    model: str | None = None


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read the ``fusegpt.json`` of a merged or a sliced model; the latter is a ``Slice``.

    Raises:
        ArtifactError: It is none; the message names the file and the field.
    """
    return as_checkpoint(read_whole(path), path)


def as_checkpoint(value: Any, where: str | Path) -> Checkpoint:
    """Validate the contents of a ``fusegpt.json``; those of a sliced model are a ``Slice``.

    Raises:
        ArtifactError: They are none; the message begins with ``where`` and names the field.
    """
    sliced = isinstance(value, dict) and value.get("kind") == "slice"
    return check(value, Slice if sliced else Checkpoint, where)


def read_record(path: str | Path) -> Checkpoint | Export | Step | Start | Source:
    """Read what a directory of ours says of itself.

    Args:
        path: A fetched model, a step, a checkpoint or an export: its directory or its record.

    Raises:
        ArtifactError: There is no record, or it is damaged.
    """
    file = layout.record_in(Path(path))
    if file is None:
        raise ArtifactError(
            f"{path}: must hold a record of a model, a step or a checkpoint, has none of"
            f" {', '.join(layout.RECORDS)}"
        )
    readers: dict[str, Callable[[Path], Checkpoint | Export | Step | Start | Source]] = {
        layout.EXPORT: functools.partial(read, model=Export),
        layout.CHECKPOINT: read_checkpoint,
        layout.MANIFEST: read_manifest,
    }
    reader = readers.get(file.name)
    return read(file, Source) if reader is None else reader(file)
