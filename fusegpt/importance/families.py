"""Families of the metrics' settings: what a round of scoring costs, and what it needs."""

from __future__ import annotations

from typing import Annotated, ClassVar

from fusegpt.config import Fraction, added_later
from fusegpt.errors import ConfigError
from fusegpt.importance.base import MetricSettings
from fusegpt.methods import RecipeLike
from fusegpt.work import Passes, Scoring

__all__ = ["LossWithoutEach", "NoPass", "OnePass", "WithoutEach"]


class OnePass(MetricSettings):
    """Metrics that watch one forward pass; around a sublayer its block runs once more."""

    def passes(self, scoring: Scoring) -> Passes:
        """Return what a round of scoring costs."""
        return Passes(scoring.blocks + (scoring.units if scoring.sublayers else 0))


class NoPass(MetricSettings):
    """Metrics that look at no data."""

    reads: ClassVar[bool] = False

    def passes(self, scoring: Scoring) -> Passes:
        """Return that a round of scoring costs nothing."""
        return Passes(0)


class WithoutEach(MetricSettings):
    """Metrics that run the model without each unit; which can be had for less, approximately."""

    approximate: Annotated[
        Fraction,
        added_later(
            0.0,
            "Approximate choice: fraction of the windows that all units are scored on; half of"
            " them, the least important, go on with twice as many windows, and so on. 0: all units"
            " on all windows, which is exact.",
        ),
    ] = 0.0

    @property
    def first_share(self) -> float:
        """Fraction of the windows that all units are scored on."""
        return self.approximate or 1.0

    @property
    def adds_up(self) -> bool:
        """Whether scores of parts of the windows add up; approximate ones do not."""
        return not self.approximate

    def check(self, recipe: RecipeLike, where: str) -> None:
        """Refuse approximate scores where more than the lowest one counts."""
        super().check(recipe, where)
        if self.approximate and (recipe.selection != "iterative" or recipe.rerank is not None):
            other = "rerank" if recipe.rerank is not None else f"selection {recipe.selection!r}"
            raise ConfigError(
                f"{where}.importance.approximate: must be 0 with {other}, got"
                f" {self.approximate:g}; only the chosen unit is scored on all windows"
            )


class LossWithoutEach(WithoutEach):
    """Metrics that measure the loss without each unit."""

    takes: ClassVar[frozenset[str]] = frozenset({"kept_states"})

    @property
    def predicts_next_token(self) -> bool:
        """Whether windows need two tokens; they do."""
        return True

    def passes(self, scoring: Scoring) -> Passes | None:
        """Return what a round of scoring costs; None: approximate scores are not counted."""
        return None if self.approximate else Passes(scoring.without_each, heads=scoring.units)
