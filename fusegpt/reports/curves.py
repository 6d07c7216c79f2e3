"""Measured values over a setting that an experiment varies: data, ranks, epochs.

An experiment names them: ``curves: {windows of data: {fusegpt: {8: fusegpt_8, 16: fusegpt_16}}}``
is one chart with an axis of that title and one line, through the recipes at these numbers. The
dense model is not drawn: far below, it would press the curves flat.
"""

from __future__ import annotations

from collections.abc import Iterator

import altair as alt
import pandas as pd

from fusegpt.reports.axes import is_wide, value_axis, value_lines
from fusegpt.reports.palette import recipe_marks
from fusegpt.reports.tables import format_sparsity, with_labels
from fusegpt.results.contents import Curves
from fusegpt.results.point import DENSE

__all__ = ["curve_charts"]


def curve_charts(
    frame: pd.DataFrame, model: str, label: str, curves: Curves
) -> Iterator[tuple[str, alt.LayerChart]]:
    """Yield one value over each setting at each sparsity: what it shows in words, and the chart.

    Args:
        frame: Rows of ``collect``.
        model: Which model.
        label: Which value, one of ``value_labels(frame)``.
        curves: Title of an axis to lines, each from numbers to recipes.
    """
    rows = with_labels(frame[frame["model"] == model])
    rows = rows[rows["label"] == label]
    for axis, lines in curves.items():
        wanted = pd.DataFrame(
            [
                {"recipe": recipe, "line": line, "at": at}
                for line, places in lines.items()
                for at, recipe in places.items()
            ]
        )
        points = rows[rows["recipe"] != DENSE].merge(wanted, on="recipe")
        points = points.rename(columns={"recipe": "run", "line": "recipe"})
        for sparsity, found in points.groupby("sparsity"):
            words = f"{label} over {axis}, sparsity {format_sparsity(float(sparsity))}"
            yield words, _chart(found, axis, label, f"{model} {words}")


def _chart(points: pd.DataFrame, axis: str, label: str, name: str) -> alt.LayerChart:
    columns = ["recipe", "run", "at", "seed", "value"]
    marks = recipe_marks(list(pd.unique(points["recipe"])), name)
    ticks = sorted(points["at"].unique())
    x = alt.X(
        "at:Q",
        title=axis,
        scale=alt.Scale(
            type="log" if is_wide(ticks[0], ticks[-1]) else "linear",
            zero=False,
            padding=20,
            nice=False,
        ),
        axis=alt.Axis(values=ticks, format=".6~g", grid=False),
    )
    values = value_axis(points["value"], label)
    return alt.layer(*value_lines(points[columns], x, values, marks, columns))
