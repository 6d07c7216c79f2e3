"""What charts of measured values share: their axis, and a line per recipe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from fusegpt.reports.palette import Marks

__all__ = ["Values", "beyond", "is_wide", "value_axis", "value_lines", "within"]

LOG_FROM = 5.0
LENGTH = 300
"""Pixels of a usual axis, by which padding on a logarithmic one is reckoned."""
CUT_FROM = 6.0
"""Values this many times the median are not drawn in their place; the rest would lie flat."""


def is_wide(low: float, high: float) -> bool:
    """Say whether an axis becomes logarithmic: positive, and the largest far from the smallest."""
    return low > 0 and high / low >= LOG_FROM


@dataclass(frozen=True)
class Values:
    """An axis for measured values, upright or lying.

    Attributes:
        title: Title of the axis.
        scale: Scale of the axis.
        edge: Where the axis was cut; infinite where it shows everything.
        ticks: Numbers at a logarithmic axis; none: those of Vega.
    """

    title: str
    scale: alt.Scale
    edge: float
    ticks: Sequence[float] = ()

    @property
    def each(self) -> alt.Y:
        """Upright, for the values themselves."""
        return alt.Y("value:Q", title=self.title, scale=self.scale, axis=self._axis())

    @property
    def mean(self) -> alt.Y:
        """Upright, for their means over seeds."""
        return alt.Y("mean(value):Q", scale=self.scale)

    @property
    def across(self) -> alt.X:
        """Lying, for the values themselves; without lines, which names above strips would cross."""
        axis = self._axis(grid=False)
        return alt.X("value:Q", title=self.title, scale=self.scale, axis=axis)

    def _axis(self, **style: Any) -> alt.Axis:
        numbers = {"values": self.ticks, "format": ".4~g"} if self.ticks else {}
        return alt.Axis(**numbers, **style)

    @property
    def is_cut(self) -> bool:
        """Whether values lie beyond the edge."""
        return math.isfinite(self.edge)

    def cut(self, sign: str) -> str:
        """Return the condition that compares a value with the edge, as Vega reads it."""
        return f"datum.value {sign} {self.edge}"


def value_axis(values: pd.Series, label: str, padding: float = 0) -> Values:
    """Return an axis for measured values; it is cut where single values lie far above all others.

    Args:
        values: All that will be drawn.
        label: Its title.
        padding: In pixels, at both ends.
    """
    low, high, edge = values.min(), values.max(), math.inf
    title, scale, ticks = label, alt.Scale(zero=False, padding=padding), list[float]()
    if is_wide(low, high):
        title = f"{label} (log)"
        if high > CUT_FROM * values.median():
            edge = max(CUT_FROM * values.median(), low * LOG_FROM)
            title = f"{label} (log; \u25b2 lies beyond)"
        room = 1.1 * (high / low) ** (padding / LENGTH)
        ends = [low / room, min(high * room, edge)]
        scale, ticks = alt.Scale(type="log", domain=ends, nice=False), _log_ticks(*ends)
    return Values(title, scale, edge, ticks)


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two ends, so few that each has room for its label."""
    ratio = high / low
    steps = (1, 1.5, 2, 3, 5, 7) if ratio < 30 else (1, 2, 5) if ratio < 1000 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = (step * 10.0**power for power in powers for step in steps)
    return [tick for tick in every if low <= tick <= high]


def within(points: alt.Chart, values: Values) -> alt.Chart:
    """Keep what the axis shows of a chart, its vertical axis encoded."""
    shown = points.encode(y=values.each)
    return shown.transform_filter(values.cut("<=")) if values.is_cut else shown


def beyond(points: alt.Chart, values: Values) -> list[alt.Chart]:
    """Triangles on the upper edge for what lies above it; nothing where the axis was not cut.

    Args:
        points: With everything encoded but shape and the vertical axis.
        values: The vertical axis.
    """
    if not values.is_cut:
        return []
    above = points.transform_filter(values.cut(">"))
    marks = above.mark_point(shape="triangle-up", filled=True, size=90, yOffset=6)
    return [marks.encode(y=alt.Y(datum=values.edge))]


def value_lines(
    points: pd.DataFrame, x: alt.X, values: Values, marks: Marks, tooltip: Sequence[Any]
) -> list[alt.Chart]:
    """Draw a line per recipe through the means of its seeds, and a point per seed.

    Args:
        points: With ``recipe``, ``value`` and the field of ``x``.
        x: The horizontal axis.
        values: The vertical axis.
        marks: Marks of the recipes.
        tooltip: Fields that a point shows when it is pointed at.
    """
    lines = alt.Chart(points).encode(x=x, color=marks.colour, opacity=marks.opacity)
    means = lines.mark_line(strokeWidth=2.5, clip=values.is_cut)
    means = means.encode(y=values.mean, strokeDash=marks.dash)
    told = lines.encode(tooltip=list(tooltip))
    seeds = within(told, values).mark_point(filled=True, size=70).encode(shape=marks.shape)
    return [means.add_params(marks.choice), seeds, *beyond(told, values)]
