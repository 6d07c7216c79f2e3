"""A point: one model that is measured, and where it lies on the way from the dense model."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

__all__ = ["DENSE", "Place", "Point"]

DENSE = "dense"
"""The recipe that removes nothing: its one result is the model as it came."""

Kind = Literal["step", "sparsity"]


@functools.total_ordering
@dataclass(frozen=True)
class Place:
    """How far a recipe has gone: ``step-007`` of a depth recipe, ``sparsity-0.25`` of a width one.

    Places are ordered: steps by number, then sparsities by value.

    Attributes:
        kind: Steps remove units one after another; a sparsity is cut from the dense model at once.
        text: The step with three digits, or the sparsity, as paths have it.
    """

    kind: Kind
    text: str

    @classmethod
    def step(cls, number: int) -> Place:
        """Return the place after so many removals."""
        return cls("step", f"{number:03d}")

    @classmethod
    def sparsity(cls, value: str | float) -> Place:
        """Return the place of a sliced model."""
        return cls("sparsity", str(value))

    @classmethod
    def parse(cls, name: str) -> Place:
        """Read what ``name`` gives back.

        Raises:
            ValueError: It is no name of a place.
        """
        kind, _, text = name.partition("-")
        if kind == "step" and text.isdecimal() and len(text) >= 3:
            return cls.step(int(text))
        if kind == "sparsity" and text:
            float(text)
            return cls.sparsity(text)
        raise ValueError(f"must be step-NNN or sparsity-X, got {name!r}")

    @property
    def name(self) -> str:
        """The directory's name; zero-padded, so that the order of names is the order of steps."""
        return f"{self.kind}-{self.text}"

    @property
    def slices(self) -> bool:
        """Whether the hidden size was cut, so that there are no steps."""
        return self.kind == "sparsity"

    @property
    def number(self) -> int:
        """Removals that lead here; a sliced model keeps every unit."""
        return 0 if self.slices else int(self.text)

    def __str__(self) -> str:
        return self.name

    def __lt__(self, other: Place) -> bool:
        return self._order < other._order

    @property
    def _order(self) -> tuple[bool, float]:
        return self.slices, float(self.text)


@dataclass(frozen=True, order=True)
class Point:
    """One model that is measured, carded, pushed and tabulated.

    Attributes:
        model: Name of the dense model.
        recipe: Id of the recipe, or ``dense``.
        place: How far the recipe has gone.
    """

    model: str
    recipe: str
    place: Place

    @classmethod
    def dense(cls, model: str) -> Point:
        """Return the point of the model as it came."""
        return cls(model, DENSE, Place.step(0))

    @classmethod
    def on(cls, model: str, recipe: str, place: Place) -> Point:
        """Return a recipe's point at a place; where nothing is gone yet it is the dense model's."""
        whole = recipe == DENSE or float(place.text) == 0
        return cls.dense(model) if whole else cls(model, recipe, place)

    @property
    def is_dense(self) -> bool:
        """Whether nothing was removed and nothing cut."""
        return self.recipe == DENSE
