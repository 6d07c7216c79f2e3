"""What charts of measured values share: their axis, and a line per recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from fusegpt.reports.palette import Marks

__all__ = ["Values", "is_wide", "value_axis", "value_lines"]

LOG_FROM = 5.0


def is_wide(low: float, high: float) -> bool:
    """Whether an axis becomes logarithmic: positive, and the largest far from the smallest."""
    return low > 0 and high / low >= LOG_FROM


@dataclass(frozen=True)
class Values:
    """The vertical axis.

    Attributes:
        each: For the values themselves.
        mean: For their means over seeds, on the same scale.
    """

    each: alt.Y
    mean: alt.Y


def value_axis(values: pd.Series, label: str, padding: float = 0) -> Values:
    """An axis for measured values.

    Args:
        values: All that will be drawn.
        label: Its title.
        padding: In pixels, on an axis that is not logarithmic.
    """
    log = is_wide(values.min(), values.max())
    scale = alt.Scale(type="log") if log else alt.Scale(zero=False, padding=padding)
    title = label + (" (log)" if log else "")
    each = alt.Y("value:Q", title=title, scale=scale)
    return Values(each, alt.Y("mean(value):Q", scale=scale))


def value_lines(
    points: pd.DataFrame, x: alt.X, values: Values, marks: Marks, tooltip: Sequence[Any]
) -> list[alt.Chart]:
    """A line per recipe through the means of its seeds, and a point per seed.

    Args:
        points: With ``recipe``, ``value`` and the field of ``x``.
        x: The horizontal axis.
        values: The vertical axis.
        marks: Of the recipes.
        tooltip: Of a point.
    """
    lines = alt.Chart(points).encode(x=x, color=marks.colour, opacity=marks.opacity)
    means = lines.mark_line(strokeWidth=2.5).encode(y=values.mean, strokeDash=marks.dash)
    seeds = lines.mark_point(filled=True, size=70)
    seeds = seeds.encode(y=values.each, shape=marks.shape, tooltip=list(tooltip))
    return [means.add_params(marks.choice), seeds]
