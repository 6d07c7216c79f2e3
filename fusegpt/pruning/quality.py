"""Removing as long as a perplexity stays within a bound, in one process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fusegpt.errors import ConfigError
from fusegpt.evaluation.perplexity import perplexity, plan
from fusegpt.evaluation.settings import Perplexity
from fusegpt.models.model import Model
from fusegpt.pruning.counting import most_removals
from fusegpt.pruning.recipe import Recipe

__all__ = ["Bound", "Keeper", "check_stops", "most_from", "read_bound"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bound:
    """What a model is to keep, in place of a sparsity.

    Attributes:
        most: Largest perplexity.
        windows: A file of ``fusegpt sample``, on which it is measured.
    """

    most: float
    windows: Path

    @property
    def text(self) -> str:
        """What is asked for, in words."""
        return f"perplexity <= {self.most:g} on {self.windows.name}"


def read_bound(text: str, windows: Path | None) -> Bound:
    """Read ``perplexity=30``.

    Args:
        text: As the command line has it.
        windows: What it is measured on.

    Raises:
        ConfigError: It is no such bound, or there are no windows.
    """
    name, _, value = text.partition("=")
    try:
        most = float(value)
    except ValueError:
        most = 0.0
    if name.strip() != "perplexity" or not 1 <= most < float("inf"):
        raise ConfigError(f"--until: must be like perplexity=30, at least 1, got {text!r:.80}")
    if windows is None:
        raise ConfigError("--until: must have windows to measure on, got none; see --held-out")
    return Bound(most, windows)


def check_stops(recipe: Recipe) -> None:
    """Refuse recipes that do not remove unit after unit.

    Raises:
        ConfigError: The message names the recipe.
    """
    if recipe.selection == "contiguous" or recipe.keep_pattern:
        raise ConfigError(
            f"--until: must be for recipes that remove unit after unit, {recipe.name!r} takes"
            " several at once; give a sparsity"
        )


def most_from(model: Model, recipe: Recipe) -> int:
    """Return how many units may go from a model, some of which may be gone already.

    Raises:
        ConfigError: None may.
    """
    gone = recipe.num_units(model.num_blocks) - len(model.units(recipe.granularity))
    most = most_removals(recipe, model.num_blocks)
    if most <= gone:
        raise ConfigError(
            f"--until: must be for a model from which something may go, recipe {recipe.name!r} lets"
            f" {most} units go and {gone} are gone already"
        )
    return most - gone


class Keeper:
    """Says after each step whether the perplexity is still within the bound.

    Args:
        directory: The model's, for its tokenizer and config.
        bound: What it is to keep.

    Raises:
        DataError: The windows are of another tokenizer, or padded.
    """

    def __init__(self, directory: Path, bound: Bound) -> None:
        self.bound = bound
        self._plan = plan(directory, {}, Perplexity(corpus=str(bound.windows)))
        self.broken: float | None = None

    def __call__(self, model: Model) -> bool:
        """Measure a model; unchanged on return."""
        (row,) = perplexity(model, self._plan)
        value = float(row["value"])
        good = value <= self.bound.most
        self.broken = None if good else value
        end = "" if good else ", which is too much"
        logger.info("perplexity %.4g, at most %.4g%s", value, self.bound.most, end)
        return good

    def count(self, model: Model, prune: Callable[[Keeper], int]) -> int:
        """Return how many units may go.

        Args:
            model: Before anything goes; pruned in place, by one unit too many where one breaks it.
            prune: Removes unit after unit until this object says no; returns how many went.

        Raises:
            ConfigError: The model as it is breaks the bound, or the first removal does.
        """
        if not self(model):
            raise ConfigError(
                f"--until: must be at least {self.broken:.4g}, what the model has before anything"
                f" goes, got {self.bound.most:g}"
            )
        went = prune(self)
        if self.broken is None and went:
            self(model)
        if went == 1 and self.broken is not None:
            raise ConfigError(
                f"--until: must be at least {self.broken:.4g}, what the first removal comes to, got"
                f" {self.bound.most:g}"
            )
        return went - (self.broken is not None)
