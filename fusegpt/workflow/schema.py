"""The keys of the configuration files, with their types."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)

from fusegpt.config import Dtype, NonNegativeInt, Number, PositiveInt, Strict, distinct
from fusegpt.data.files import SUFFIXES
from fusegpt.data.generated import Generated
from fusegpt.evaluation import EVALS
from fusegpt.evaluation.settings import EvaluationSettings
from fusegpt.methods import bind
from fusegpt.pruning.target import Target
from fusegpt.registry import lookup
from fusegpt.work import Shape
from fusegpt.workflow.asked_exports import Exports
from fusegpt.workflow.bound import Until

__all__ = ["Configuration", "Corpus", "Evaluation", "Experiment", "Model", "Task"]

NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")


def _name(value: str) -> str:
    if not NAME.fullmatch(value) or len(value) > 64:
        raise ValueError(
            "a name must be lower-case letters and digits, joined by single '_', '-' or '.',"
            f" at most 64 characters, got {value!r}"
        )
    return value


def _path(value: str) -> str:
    if not value or not value.isprintable() or set(value) & set("{}"):
        raise ValueError(f"must be a path without control characters and braces, got {value!r}")
    return value


def _fraction(value: Any) -> float:
    """Read what stands in place of a target; what is no number is told what may stand there."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            return float(value)
    raise ValueError(
        "must be a fraction of units in [0, 1), or a target such as {parameters: 100M}, got"
        f" {value!r:.60}; 25% is 0.25"
    )


Name = Annotated[str, AfterValidator(_name)]
FilePath = Annotated[str, AfterValidator(_path)]
Text = Annotated[str, StringConstraints(min_length=1)]
Names = Annotated[list[Name], Field(min_length=1), AfterValidator(distinct)]
Asked = Annotated[
    Annotated[Target, Tag("[target]")]
    | Annotated[Number, BeforeValidator(_fraction), Tag("[number]")],
    Discriminator(lambda value: "[target]" if isinstance(value, dict) else "[number]"),
]
Sparsities = Annotated[list[Asked], Field(min_length=1), AfterValidator(distinct)]


Line = Annotated[dict[Number, Name], Field(min_length=1)]
Seeds = Annotated[list[NonNegativeInt], Field(min_length=1), AfterValidator(distinct)]


class Model(Strict):
    """Where a model comes from, and how many blocks it has."""

    source: FilePath = Field(
        description="hub:ORG/NAME@REVISION, dir:PATH, pypi:PACKAGE==VERSION/FILE.gguf, or"
        " made:MODEL for a model that a rule of your own makes."
    )
    num_blocks: PositiveInt = Field(
        le=10_000,
        description="Number of blocks, so that a sparsity can be checked before any download.",
    )
    sha256: Text | None = Field(default=None, description="Checksum of a file in a package.")
    revision: Text | None = Field(default=None, description="Revision on the hub.")
    licence: Text | None = Field(default=None, description="Licence, for model cards.")
    base_model: Text | None = Field(default=None, description="Id on the hub, for model cards.")
    dtype: Text | None = Field(default=None, description="Type that the weights are stored in.")
    config: dict[str, Any] = Field(
        default_factory=dict, description="Values that replace those of the model's config."
    )
    split_digits: bool = Field(
        default=False, description="Whether the tokenizer of a GGUF file splits numbers in digits."
    )
    trust_remote_code: bool = Field(
        default=False, description="Fetch and run Python code that comes with the model."
    )
    shape: Shape | None = Field(
        default=None,
        description="Sizes of a mean block and of the model, so that fusegpt plan can count FLOPs"
        " and memory before any download.",
    )

    def fetch_settings(self) -> dict[str, Any]:
        """The entry for ``fusegpt fetch``, without the source itself; it checks num_blocks."""
        return self.model_dump(exclude={"source", "shape"}, exclude_defaults=True)


class Corpus(Strict):
    """A corpus from local files, one that the model writes, or a built-in one read otherwise."""

    splits: dict[Name, FilePath] | None = Field(
        default=None,
        description="File of each split: parquet, jsonl or txt; absent for a built-in corpus.",
    )
    join: str | None = Field(default=None, description="Text between two documents.")
    documents: PositiveInt | None = Field(
        default=None, description="Number of documents that are taken, from the first."
    )
    variant: Text | None = Field(
        default=None, description="Which of several texts of that name this is."
    )
    generated: Generated | None = Field(
        default=None, description="Text that each dense model writes itself, in place of files."
    )

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        others = [key for key in self.model_dump(exclude_none=True) if key != "generated"]
        if self.generated is not None and others:
            raise ValueError(f"generated must stand alone, got {others[0]} beside it")
        for split, file in (self.splits or {}).items():
            if Path(file).suffix not in SUFFIXES:
                raise ValueError(
                    f"splits.{split} must be a file that ends in {', '.join(SUFFIXES)}, got"
                    f" {file!r:.60}"
                )
        return self


class Task(Strict):
    """Where the items of a task of lm-eval, or of the tasks of a group, are read from."""

    splits: dict[Name, FilePath] = Field(
        min_length=1,
        description="File of each split: parquet, jsonl or arrow, with the columns of the task's"
        " data set.",
    )
    package: Text | None = Field(
        default=None,
        description="NAME==VERSION of an installed package that the files lie in; * in a file's"
        " path stands for the standard task's dataset_name.",
    )
    select: Text | None = Field(
        default=None,
        description="Keep the rows whose value in this column is that dataset_name.",
    )


class Evaluation(Strict):
    """What is measured on a model: ``{eval: perplexity, dtype: float32, corpus: ...}``."""

    eval: Text = Field(description="Name of the evaluation.")
    dtype: Dtype = Field(default="bfloat16", description="Type of the weights while measuring.")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="Every other key: settings of the evaluation."
    )

    @model_validator(mode="before")
    @classmethod
    def _gather_settings(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        own = {key: value[key] for key in ("eval", "dtype") if key in value}
        return {**own, "settings": {key: value[key] for key in value if key not in own}}

    def bound(self, where: str) -> EvaluationSettings:
        """Check the settings and fill in the evaluation's defaults.

        Args:
            where: Name of the entry in messages, e.g. ``evaluations.wikitext2``.

        Raises:
            ConfigError: No such evaluation or setting, or a value that is not allowed.
        """
        return bind(lookup(EVALS, self.eval, "evaluation", f"{where}.eval"), self.settings, where)


class Experiment(Strict):
    """Models x recipes x seeds x sparsities x evaluations."""

    models: Names = Field(description="Names of models.")
    recipes: Names = Field(description="Names of recipes; dense is the unpruned model.")
    sparsities: Sparsities = Field(
        default_factory=list,
        description="Fractions of units that are removed, or of the hidden size that is cut; or"
        " targets: {parameters: 100M}, {file_size: 200MB}, {memory: 6GB, batch: 1, context: 8192},"
        " {speedup: 1.3}, {blocks: 24}.",
    )
    until: Until | None = Field(
        default=None,
        description="In place of sparsities: {evaluation: wikitext2, at_most: 12} removes until a"
        " step breaks it.",
    )
    seeds: Seeds = Field(
        default_factory=lambda: [0], description="Seeds; each is a run of its own."
    )
    evaluations: Names = Field(description="Names of evaluations.")
    keep_checkpoints: bool = Field(
        default=False, description="Write the pruned models as checkpoints; results need none."
    )
    exports: Exports = Field(
        default_factory=list,
        description="Files for other programs, of every model of the experiment, the dense one"
        " included: gguf:f16, gguf:q8_0, gguf:q4_k_m, int8, int4, gptq4 or with its windows"
        " {gptq4: {corpus: wikitext2, sequences: 128, length: 2048}}; they need the checkpoints,"
        " which are kept.",
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="Settings laid over every recipe of this experiment."
    )
    recipe_settings: dict[Name, dict[str, Any]] = Field(
        default_factory=dict,
        description="Settings of each recipe named, laid over that recipe alone and over settings.",
    )
    curves: dict[Text, Annotated[dict[Name, Line], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="Charts over what the recipes differ in: title of the axis to lines, and of"
        " each line the number of a recipe to its name.",
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_absent(cls, value: Any) -> Any:
        """A key without a value takes back what ``<<`` merged in."""
        if isinstance(value, dict):
            value = {key: given for key, given in value.items() if given is not None}
        return value

    @model_validator(mode="after")
    def _says_how_much(self) -> Self:
        if bool(self.sparsities) == (self.until is not None):
            got = "both" if self.sparsities else "neither"
            raise ValueError(f"must have one of sparsities and until, got {got}")
        return self

    @property
    def fractions(self) -> list[float]:
        """The sparsities that are given as fractions."""
        return [asked for asked in self.sparsities if not isinstance(asked, Target)]

    @property
    def targets(self) -> list[Target]:
        """What is wanted in place of a fraction."""
        return [asked for asked in self.sparsities if isinstance(asked, Target)]


class Configuration(Strict):
    """The merged configuration files."""

    models: dict[Name, Model] = Field(
        default_factory=dict, description="Models by name: where each comes from."
    )
    corpora: dict[Name, Corpus] = Field(
        default_factory=dict,
        description="Corpora by name; built in are wikitext2, c4 (from the hub) and python_docs.",
    )
    tasks: dict[Name, Task] = Field(
        default_factory=dict,
        description="Tasks by name: where their items come from when not from the hub.",
    )
    evaluations: dict[Name, Evaluation] = Field(
        default_factory=dict, description="Evaluations by name: a function with its settings."
    )
    recipes: dict[Name, dict[str, Any]] = Field(
        default_factory=dict, description="Recipes by name, beside those of the project."
    )
    experiments: dict[Name, Experiment] = Field(
        default_factory=dict, description="Experiments by name: what to run and to measure."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _nothing_is_empty(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("corpora", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        """``wikitext2:`` with nothing below it means the built-in corpus as it is."""
        if not isinstance(value, dict):
            return value
        return {name: {} if entry is None else entry for name, entry in value.items()}
