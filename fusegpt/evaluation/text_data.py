"""Labelled texts: which files, columns and label words a classification task has."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError, field_validator

from fusegpt.config import Strict, explain
from fusegpt.data.hub import dataset_file
from fusegpt.errors import ConfigError, DataError
from fusegpt.evaluation.task_data import check_files, read_splits, read_table
from fusegpt.registry import lookup
from fusegpt.runtime import generator
from fusegpt.yaml_files import read_yaml

__all__ = ["TextTask", "Texts", "draw", "read_task", "read_texts"]

FOLDER = Path(__file__).parent / "text_tasks"
SPLITS = ("train", "test")


class TextTask(Strict):
    """A task file.

    Attributes:
        hub: ``ORG/NAME@REVISION`` of the data set that ``splits`` are files of; without it they
            are local files.
        splits: ``train``, which examples are drawn from, and ``test``.
        text: Column of the texts.
        label: Column of the labels.
        template: The prompt; ``{text}`` stands for the text.
        words: Label to the word that stands for it, the verbaliser; their order is that of the
            classes.
    """

    hub: str | None = Field(default=None, pattern=r"[^@]+@[0-9a-f]{40}")
    splits: dict[str, str]
    text: str
    label: str
    template: str
    words: dict[int | str, str] = Field(min_length=2)

    @field_validator("template")
    @classmethod
    def _has_one_text(cls, value: str) -> str:
        if value.count("{text}") != 1 or value != value.strip():
            raise ValueError(f"must hold {{text}} once and end in no space, got {value!r}")
        return value

    @field_validator("splits")
    @classmethod
    def _has_both(cls, value: dict[str, str]) -> dict[str, str]:
        if sorted(value) != sorted(SPLITS):
            raise ValueError(f"must be train and test, got {', '.join(value)}")
        return value


@dataclass(frozen=True)
class Texts:
    """Texts with their classes.

    Attributes:
        texts: The texts, without space around them.
        classes: Places of their labels among the task's words.
    """

    texts: Sequence[str]
    classes: Sequence[int]

    def take(self, places: Sequence[int]) -> Texts:
        """The texts at some places, in that order."""
        return Texts([self.texts[i] for i in places], [self.classes[i] for i in places])


def read_task(name: str) -> tuple[str, TextTask]:
    """Read a task file: one of ours by name, or any by its path; return its name and content.

    Raises:
        UnknownNameError: No such task.
        ConfigError: The file cannot be read, or a key is wrong.
    """
    known = {path.stem: path for path in FOLDER.glob("*.yaml")}
    path = Path(name) if name.endswith(".yaml") else lookup(known, name, "classification task")
    content = read_yaml(path, "a readable task file")
    try:
        return path.stem, TextTask.model_validate(content)
    except ValidationError as error:
        raise ConfigError(explain(error, str(path), TextTask)) from None


def read_texts(name: str, task: TextTask, entry: Mapping[str, Any] | None) -> dict[str, Texts]:
    """Read both splits of a task, from an entry of the config's ``tasks`` or from the task's files.

    Raises:
        DataError: A file, a column or a split is missing, or a label has no word.
    """
    where = f"tasks.{name}"
    if entry is not None:
        check_files(entry, name, where)
        if missing := [split for split in SPLITS if split not in entry["splits"]]:
            there = ", ".join(entry["splits"])
            raise DataError(f"{where}: split {missing[0]!r} is needed, has {there}")
        tables: Mapping[str, Any] = read_splits(**entry, name=name)
    elif task.hub is not None:
        repository, _, revision = task.hub.partition("@")
        advice = f"name files for train and test below {where} in a configuration file"
        tables = {
            split: read_table(dataset_file(repository, revision, file, advice))
            for split, file in task.splits.items()
        }
    else:
        check_files({"splits": task.splits}, name, where)
        tables = {split: read_table(Path(file)) for split, file in task.splits.items()}
    return {split: _texts(tables[split], task, f"{where}.{split}") for split in SPLITS}


def draw(
    texts: Texts, task: TextTask, shots: int, seed: int, avoid: Collection[str], where: str
) -> tuple[Texts, Texts]:
    """Draw ``shots`` examples of each class to tune on, and as many others to validate on.

    Args:
        texts: To draw from; a text that is there twice counts once.
        task: Its words.
        shots: Examples of each class.
        seed: Seed of the draw and of the examples' order.
        avoid: Texts that must not be drawn: those of the test split.
        where: Names the task in messages.

    Raises:
        DataError: A class has too few examples.
    """
    first = {text: place for place, text in reversed(list(enumerate(texts.texts)))}
    usable = sorted(place for text, place in first.items() if text not in avoid)
    chosen: tuple[list[int], list[int]] = ([], [])
    for number, label in enumerate(task.words):
        places = [place for place in usable if texts.classes[place] == number]
        if len(places) < 2 * shots:
            raise DataError(
                f"{where}: label {label!r} has {len(places)} examples that are not in the test"
                f" split; {shots} to tune on and {shots} to validate on are needed; lower shots"
            )
        order = torch.randperm(len(places), generator=generator(seed, where, number)).tolist()
        for taken, part in zip(chosen, (order[:shots], order[shots : 2 * shots]), strict=True):
            taken.extend(places[i] for i in part)
    mixed = torch.randperm(len(chosen[0]), generator=generator(seed, where, "order")).tolist()
    return texts.take([chosen[0][i] for i in mixed]), texts.take(chosen[1])


def _texts(table: Any, task: TextTask, where: str) -> Texts:
    for column in (task.text, task.label):
        if column not in table.column_names:
            there = ", ".join(table.column_names)
            raise DataError(f"{where}: no column {column!r}; it has {there}")
    number = {label: place for place, label in enumerate(task.words)}
    texts, labels = (_values(table, column) for column in (task.text, task.label))
    for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where}: row {row}: {task.text} must be text, got {text!r}")
        if label not in number:
            known = ", ".join(map(repr, number))
            raise DataError(
                f"{where}: row {row}: {task.label} must be one of {known}, got {label!r}"
            )
    if not texts:
        raise DataError(f"{where}: has no rows")
    return Texts([text.strip() for text in texts], [number[label] for label in labels])


def _values(table: Any, column: str) -> list[Any]:
    values = table[column]
    return values.to_pylist() if hasattr(values, "to_pylist") else list(values)
