"""Methods: a function and the settings it takes, both named in one line of a table.

The settings are a pydantic model that imports no torch, so that a typo, a combination that cannot
work and what a method will cost are known before any model is loaded. The first line of its
docstring says in one sentence what the method does.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import ValidationError

from fusegpt.config import Strict, explain
from fusegpt.errors import ConfigError
from fusegpt.registry import Entry
from fusegpt.units import Granularity

__all__ = ["Method", "RecipeLike", "Settings", "WindowsLike", "bind", "defaults"]


class WindowsLike(Protocol):
    """What a method may ask of a recipe's windows."""

    @property
    def sequences(self) -> int:
        """Number of windows; without effect when ``rows`` is given."""

    @property
    def length(self) -> int:
        """Tokens of one window."""

    @property
    def rows(self) -> int | None:
        """Rows of the corpus that are drawn in place of a number of windows."""


class Protects(Protocol):
    """What a method may ask of a recipe's importance."""

    @property
    def protect_first(self) -> int:
        """Number of blocks at the start that stay."""

    @property
    def protect_last(self) -> int:
        """Number of blocks at the end that stay."""

    @property
    def reference(self) -> str:
        """``current`` or ``original``: the model that a metric compares with."""


class RecipeLike(Protocol):
    """What a method may ask of the recipe it stands in; ``fusegpt.pruning.recipe`` has the class.

    Messages name the metric and the recovery by their names in the tables.
    """

    @property
    def name(self) -> str:
        """Name of the recipe."""

    @property
    def metric(self) -> str:
        """Name of the importance metric."""

    @property
    def importance(self) -> Protects:
        """Settings of the metric."""

    @property
    def method(self) -> str:
        """Name of the recovery."""

    @property
    def selection(self) -> str:
        """``iterative``, ``one_shot`` or ``contiguous``."""

    @property
    def keep_pattern(self) -> bool:
        """Whether what remains keeps the kinds that programs compute by number."""

    @property
    def rerank(self) -> object | None:
        """How the best candidates are tried; None: the lowest score goes."""

    @property
    def granularity(self) -> Granularity:
        """``block``, ``attention``, ``mlp`` or ``mixed``."""

    @property
    def calibration(self) -> WindowsLike:
        """Windows for scoring."""

    @property
    def finetune(self) -> WindowsLike:
        """Windows for recovery."""


class Settings(Strict):
    """Settings of one method: its fields, with their defaults, are what a user can set.

    Attributes:
        paper: Where the method is published, with section and equation.
    """

    paper: ClassVar[str] = ""

    def check(self, recipe: RecipeLike, where: str) -> None:
        """Refuse a recipe that the method cannot work in; most methods refuse none.

        Args:
            recipe: The complete recipe that these settings stand in.
            where: Name of the recipe in messages, e.g. ``recipes.fusegpt``.

        Raises:
            ConfigError: The message says what must hold, what came, and what to do.
        """


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Method(Entry, Generic[S]):
    """One line of a table of methods.

    Attributes:
        settings: ``"package.module:Class"`` of its ``Settings``; importing it needs no torch.
    """

    settings: str

    @property
    def schema(self) -> type[S]:
        """Import and return the class of the method's settings."""
        module, _, name = self.settings.partition(":")
        schema: type[S] = getattr(importlib.import_module(module), name)
        return schema

    @property
    def summary(self) -> str:
        """What the method does, in one line: the first one of its settings' docstring."""
        return (self.schema.__doc__ or "").strip().splitlines()[0]


def bind(method: Method[S], settings: Mapping[str, Any], where: str) -> S:
    """Check a user's settings of a method and fill in its defaults.

    Args:
        method: The line of the table.
        settings: What the user gave; whatever is missing gets its default.
        where: Name of the settings in the user's file, e.g. ``recipes.fusegpt.recovery``.

    Raises:
        ConfigError: A key is unknown or a value is not allowed; every fault in one line.
    """
    schema = method.schema
    try:
        return schema.model_validate(dict(settings))
    except ValidationError as error:
        raise ConfigError(explain(error, where, schema)) from None


def defaults(method: Method[S]) -> dict[str, Any]:
    """Return every setting of a method with its default value."""
    return dict(method.schema())
