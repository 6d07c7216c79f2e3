"""How recipes are told apart: by colour, beyond eight also by shape and dashes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from fusegpt.results.point import DENSE

__all__ = ["DENSE_COLOUR", "Marks", "recipe_marks", "recipes_of"]

PALETTE = ("#2f86c9", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8f7a00", "#7b5ea7")
"""After Okabe and Ito: told apart by most colour-blind eyes, on white and on near-black."""

SHAPES = ("circle", "square", "triangle-up", "triangle-down", "cross")
DASHES = ([1, 0], [8, 3], [3, 3], [8, 3, 2, 3], [2, 6])
DENSE_COLOUR = "#888888"
FAINT = 0.12


@dataclass(frozen=True)
class Marks:
    """Encodings by recipe, and the choice that a click into the legend makes.

    Attributes:
        colour, shape, dash: Channels of the field ``recipe``.
        opacity: Full for what is chosen; all is, until the legend is clicked.
        choice: To add to one layer of the chart.
    """

    colour: alt.Color
    shape: alt.Shape
    dash: alt.StrokeDash
    opacity: dict[str, Any]
    choice: alt.Parameter


def recipe_marks(recipes: Sequence[str], chart: str, *, dense: bool = False) -> Marks:
    """Return the marks of these recipes, by their place.

    Args:
        recipes: In the order of the table.
        chart: What is drawn, in words; charts side by side need different ones.
        dense: Whether the dense model has a mark, too.
    """
    names = [*recipes, *([DENSE] if dense else [])]
    places = range(len(recipes))
    last = [DENSE_COLOUR] if dense else []
    colours = [PALETTE[place % len(PALETTE)] for place in places] + last
    turns = [place // len(PALETTE) % len(SHAPES) for place in places] + [0] * len(last)
    legend = alt.Legend(title=None, orient="top", columns=2, labelLimit=260, symbolLimit=0)
    name = "choice_" + re.sub(r"\W", "_", chart)
    choice = alt.selection_point(name=name, fields=["recipe"], bind="legend")
    return Marks(
        colour=alt.Color("recipe:N", scale=alt.Scale(domain=names, range=colours), legend=legend),
        shape=alt.Shape(
            "recipe:N",
            scale=alt.Scale(domain=names, range=[SHAPES[turn] for turn in turns]),
            legend=legend,
        ),
        dash=alt.StrokeDash(
            "recipe:N",
            scale=alt.Scale(domain=names, range=[DASHES[turn] for turn in turns]),
            legend=legend,
        ),
        opacity=alt.condition(choice, alt.value(0.95), alt.value(FAINT)),
        choice=choice,
    )


def recipes_of(rows: pd.DataFrame) -> list[str]:
    """Return the pruned recipes, in the order of the table; their places give the marks."""
    return [str(name) for name in pd.unique(rows["recipe"]) if name != DENSE]
