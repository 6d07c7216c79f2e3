"""What ends a chain in place of a sparsity: a value that an evaluation has to keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field, model_validator

from fusegpt.config import Number, PositiveInt, Strict
from fusegpt.errors import ConfigError
from fusegpt.evaluation.settings import EvaluationSettings
from fusegpt.pruning.definition import Recipe
from fusegpt.registry import lookup
from fusegpt.results.models import Row

__all__ = ["Until"]


class Until(Strict):
    """Remove as long as an evaluation keeps a value; the last step that does is the result."""

    evaluation: str = Field(description="One of the experiment's evaluations.")
    at_most: Number | None = Field(
        default=None, description="What it may be at most, where lower is better."
    )
    at_least: Number | None = Field(
        default=None, description="What it must be at least, where higher is better."
    )
    steps: PositiveInt | None = Field(
        default=None, description="Removals at most; null: as many as may go."
    )

    @model_validator(mode="after")
    def _is_one(self) -> Until:
        given = [name for name in ("at_most", "at_least") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"must give one of at_most and at_least, got {len(given)}")
        return self

    @property
    def text(self) -> str:
        """What is asked for, as tables show it: ``wikitext2 <= 12``."""
        if self.at_most is not None:
            return f"{self.evaluation} <= {self.at_most:g}"
        return f"{self.evaluation} >= {self.at_least:g}"

    def keeps(self, value: float) -> bool:
        """Whether a value is good enough; NaN never is."""
        if self.at_most is not None:
            return value <= self.at_most
        assert self.at_least is not None
        return value >= self.at_least

    def row_of(self, rows: Sequence[Row], where: str) -> Row:
        """Return the row that decides: the mean over tasks if there is one, else the first.

        Args:
            rows: All rows of the evaluation.
            where: Names the result in messages.

        Raises:
            ConfigError: Its better values lie on the other side of the bound.
        """
        row = next((row for row in rows if row.task.startswith("mean")), rows[0])
        self._check_side(row.higher_is_better, where)
        return row

    def check(
        self,
        where: str,
        evaluations: Mapping[str, EvaluationSettings],
        recipes: Sequence[Recipe],
    ) -> None:
        """Refuse what cannot decide, and recipes that have no chain to stop.

        Args:
            where: Name of the entry in messages.
            evaluations: Those of the experiment, by name.
            recipes: Its recipes, without ``dense``.

        Raises:
            ConfigError: One line, which begins with ``where``.
        """
        try:
            settings = lookup(evaluations, self.evaluation, "evaluation of this experiment")
        except ConfigError as error:
            raise ConfigError(f"{where}.evaluation: {error}") from None
        if settings.higher_is_better is None:
            raise ConfigError(
                f"{where}.evaluation: must measure what a model is worth, {self.evaluation!r}"
                " measures what it costs; give a target among sparsities"
            )
        self._check_side(settings.higher_is_better, where)
        for recipe in recipes:
            if recipe.slices or recipe.keep_pattern:
                why = "slices widths" if recipe.slices else "removes whole periods (keep_pattern)"
                raise ConfigError(
                    f"{where}: must be for recipes that remove unit after unit, {recipe.name!r}"
                    f" {why}; give sparsities in an experiment of its own"
                )

    def _check_side(self, higher_is_better: bool, where: str) -> None:
        if higher_is_better != (self.at_least is not None):
            right, better = ("at_least", "higher") if higher_is_better else ("at_most", "lower")
            raise ConfigError(
                f"{where}: must be {right} for {self.evaluation!r}, where {better} is better, got"
                f" {self.text}"
            )
