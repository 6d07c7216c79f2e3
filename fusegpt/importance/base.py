"""What the run asks of every metric's settings, and which blocks stay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from fusegpt.config import NonNegativeInt, added_later
from fusegpt.errors import ConfigError
from fusegpt.methods import RecipeLike, Settings
from fusegpt.units import Unit, listed_units
from fusegpt.work import Passes, Scoring

__all__ = ["Listed", "MetricSettings", "block_of", "check_numbers"]

Listed = Annotated[list[int | str], BeforeValidator(listed_units)]
"""Units in the order of a list, ranges written out."""


def _blocks(listed: Any) -> list[int | str]:
    """The same for blocks alone."""
    found = listed_units(listed)
    named = next((unit for unit in found if isinstance(unit, str)), None)
    if named is not None:
        raise ValueError(f"must hold blocks, whose sublayers stay with them, got {named!r}")
    return found


class MetricSettings(Settings):
    """Settings that every metric has.

    Attributes:
        takes: What the run passes to the metric by keyword: ``seed``, ``run``, ``original``,
            ``details``, ``kept_states``.
        reads: Whether the metric looks at the calibration windows.
        predicts_next_token: Whether the score is a loss of the next token, so that windows need
            two tokens.
        streams: Whether it also works where weights are read block by block.
        takes_gradients: Whether gradients go back through the model, which float16 is too narrow
            for.
    """

    takes: ClassVar[frozenset[str]] = frozenset()
    streams: ClassVar[bool] = True
    reads: ClassVar[bool] = True
    takes_gradients: ClassVar[bool] = False

    protect_first: NonNegativeInt = Field(
        default=0, description="Number of blocks at the start that stay."
    )
    protect_last: NonNegativeInt = Field(
        default=0, description="Number of blocks at the end that stay."
    )
    reference: Literal["current", "original"] = Field(
        default="current",
        description="Model whose states or logits a pruned model is compared with, where a metric"
        " compares: the model as pruned so far, or the dense one.",
    )
    protect: Annotated[list[int | str], BeforeValidator(_blocks)] = added_later(
        [], "Further blocks that stay, by their numbers in the dense model: 0, '27-29'."
    )

    @property
    def predicts_next_token(self) -> bool:
        """Whether the score is a loss of the next token."""
        return False

    @property
    def first_share(self) -> float:
        """Fraction of the windows that all units are scored on; less than 1 is approximate."""
        return 1.0

    @property
    def adds_up(self) -> bool:
        """Whether these settings let several jobs share the windows of a metric that can."""
        return True

    @property
    def spares_first(self) -> bool:
        """Whether the first block stays, whatever happens."""
        return self.protect_first > 0 or 0 in self.protect

    def order(self, units: Sequence[Unit]) -> list[Unit] | None:
        """Return those of ``units`` that go, in order, where settings say so; None: scores do."""
        return None

    def own(self) -> dict[str, Any]:
        """Return the settings that only this metric has."""
        return self.model_dump(exclude=set(MetricSettings.model_fields))

    def open_blocks(self, num_blocks: int) -> list[int]:
        """Return the dense indices of the blocks of a dense model that are not protected."""
        return self.open_among(range(num_blocks))

    def open_among(self, kept: Sequence[int]) -> list[int]:
        """Return the dense indices of those of some remaining blocks that are not protected."""
        places = kept[self.protect_first : max(0, len(kept) - self.protect_last)]
        return [place for place in places if place not in self.protect]

    def check_numbers(self, recipe: RecipeLike, num_blocks: int) -> None:
        """Refuse numbers of blocks that the dense model does not have.

        Args:
            recipe: The complete recipe that these settings stand in.
            num_blocks: Number of blocks of the dense model.

        Raises:
            ConfigError: The message names the setting and the number.
        """
        check_numbers(self.protect, num_blocks, f"recipes.{recipe.name}.importance.protect")

    def check_count(self, recipe: RecipeLike, count: int, where: str) -> None:
        """Refuse a number of removals that the metric has no order for; most have one for all."""

    def passes(self, scoring: Scoring) -> Passes | None:
        """Return what one window goes through; ``None``: not counted."""
        return None

    def check_units(self, recipe: RecipeLike, fewest: int, most: int, where: str) -> None:
        """Refuse a number of units among which the metric cannot tell them apart.

        Args:
            recipe: The complete recipe that these settings stand in.
            fewest: Number of units that the last round of scoring chooses from.
            most: Number of units that the first round chooses from.
            where: Name of the place in messages.

        Raises:
            ConfigError: The message says what to do.
        """


def check_numbers(listed: Iterable[int | str], num_blocks: int, where: str) -> None:
    """Refuse listed units of blocks that a dense model of so many blocks does not have."""
    for unit in listed:
        if block_of(unit) >= num_blocks:
            raise ConfigError(
                f"{where}: must hold numbers of the model's blocks, 0 to {num_blocks - 1}, got"
                f" {unit!r}"
            )


def block_of(unit: int | str) -> int:
    """Return the number of the block of a listed unit."""
    return int(str(unit).rpartition(" ")[2])
