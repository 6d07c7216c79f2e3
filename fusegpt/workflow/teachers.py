"""Answers of teachers: finishes that learn from the same ones share them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from fusegpt.errors import ConfigError
from fusegpt.pruning.definition import Recipe
from fusegpt.recovery.settings.finish import Distill
from fusegpt.registry import lookup
from fusegpt.workflow.schema import Model

__all__ = ["TeacherAnswers", "answers_of", "check_teacher"]


@dataclass(frozen=True)
class TeacherAnswers:
    """What decides a teacher's answers to windows, besides the model that they were cut for.

    Attributes:
        id: ``<windows>-<8 hex>``, part of the directory's path.
        windows: Id of the windows.
        teacher: Name of the model that answers; None: the dense model of those who learn.
        top_k: How many tokens are kept at each position; None: all.
        temperature: What logits are divided by.
        dtype: Type of the teacher's weights.
    """

    id: str
    windows: str
    teacher: str | None
    top_k: int | None
    temperature: float
    dtype: str


def answers_of(recipe: Recipe, windows: str) -> TeacherAnswers | None:
    """Return the answers that a recipe's finish learns from; None: it has no teacher.

    Args:
        recipe: With or without a finish.
        windows: Id of the windows of its finish.
    """
    finish = recipe.finish
    if not isinstance(finish, Distill):
        return None
    matters = (finish.teacher, finish.top_k, finish.temperature, recipe.dtype)
    short = hashlib.sha256(json.dumps([windows, *matters]).encode()).hexdigest()[:8]
    return TeacherAnswers(f"{windows}-{short}", windows, *matters)


def check_teacher(recipe: Recipe, model: str, models: Mapping[str, Model]) -> None:
    """Refuse a teacher that nobody defined, or whose vocabulary is known to be another.

    Args:
        recipe: With or without a finish.
        model: Name of the model that it prunes.
        models: Entries of the configuration.

    Raises:
        ConfigError: It is one, or more tokens are to be kept than the vocabulary has.
    """
    finish, where = recipe.finish, f"recipes.{recipe.name}.finish"
    if not isinstance(finish, Distill):
        return
    name = finish.teacher or model
    try:
        teacher = lookup(models, name, "model")
    except ConfigError as error:
        raise ConfigError(f"{where}.teacher: {error}") from None
    shapes = [entry.shape for entry in (models[model], teacher)]
    sizes = [shape.vocab for shape in shapes if shape is not None and shape.vocab]
    if len({*sizes}) > 1:
        raise ConfigError(
            f"{where}.teacher: must have the vocabulary of {model}, {sizes[0]} tokens, got {name!r}"
            f" with {sizes[1]}"
        )
    if finish.top_k is not None and sizes and finish.top_k > sizes[-1]:
        raise ConfigError(
            f"{where}.top_k: must be at most {sizes[-1]}, the vocabulary of {name}, got"
            f" {finish.top_k}"
        )
