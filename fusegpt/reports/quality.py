"""One measured value of one model: over sparsity, or recipe by recipe at a single one."""

from __future__ import annotations

from dataclasses import dataclass

import altair as alt
import pandas as pd

from fusegpt.reports.axes import value_axis
from fusegpt.reports.figures import REMAINING, labels_above, published_marks, sparsity_chart
from fusegpt.reports.palette import DENSE_COLOUR, PALETTE
from fusegpt.reports.tables import format_sparsity, with_labels
from fusegpt.results.point import DENSE

__all__ = ["Quality", "quality_chart"]

STRIP = 40
"""Height in pixels of one recipe with its name."""
BAND = 22
"""Height in pixels of what is drawn of it, below the name."""


@dataclass(frozen=True)
class Quality:
    """A chart of a measured value.

    Attributes:
        chart: Without size.
        words: What it shows.
        strips: Number of recipes below each other; 0 for lines over sparsity.
    """

    chart: alt.LayerChart
    words: str
    strips: int = 0

    def height(self, lines: int) -> int:
        """Height of the drawing in pixels; a chart of lines is as high as asked for."""
        return STRIP * self.strips or lines


def quality_chart(
    frame: pd.DataFrame, model: str, label: str, papers: pd.DataFrame | None = None
) -> Quality:
    """Draw lines over sparsity, or, where all recipes have one sparsity, the recipes in order.

    Args:
        frame: Rows of ``collect``.
        model: Which model.
        label: Which value, one of ``value_labels(frame)``.
        papers: From ``read_published``; drawn as hollow diamonds, whatever their protocol.
    """
    rows = with_labels(frame[frame["model"] == model])
    rows = rows[rows["label"] == label]
    pruned = rows[rows["recipe"] != DENSE]
    if pruned["sparsity"].nunique() != 1:
        words = f"{label} over sparsity; every line starts at the dense model."
        return Quality(sparsity_chart(frame, model, label, papers), words)
    chart, names = _ranking(rows, label)
    diamonds = published_marks(frame, model, label, papers, names)
    if diamonds is not None:
        place = {"x": alt.X("value:Q"), "y": labels_above(names, "recipe")}
        chart += diamonds.encode(**place, color=alt.value(PALETTE[1]))
    sparsity = format_sparsity(float(pruned["sparsity"].iloc[0]))
    words = f"{label} at {sparsity}, the best first"
    words += "; a stroke is the mean of the seeds." if pruned["seed"].nunique() > 1 else "."
    return Quality(chart, words, len(names))


def _ranking(rows: pd.DataFrame, label: str) -> tuple[alt.LayerChart, list[str]]:
    """A strip per recipe: a point per seed, and the mean; the dense model is marked in each."""
    columns = ["recipe", "seed", "sparsity", "blocks_left", "value"]
    pruned = rows.loc[rows["recipe"] != DENSE, columns]
    better = bool(rows["higher_is_better"].iloc[0])
    means = pruned.groupby("recipe", sort=False)["value"].mean().sort_values(ascending=not better)
    names = [str(name) for name in means.index]
    values = value_axis(rows["value"], label, padding=48)
    strips = alt.Chart(pruned).encode(y=labels_above(names, "recipe"), color=alt.value(PALETTE[0]))
    tooltip = ["recipe", "seed", alt.Tooltip("sparsity", format=".1%"), REMAINING, "value"]
    points = strips.mark_point(filled=True, size=70, clip=True).encode(tooltip=tooltip)
    layers = [points.encode(x=values.across)]
    if values.is_cut:
        far = strips.transform_filter(values.cut(">")).mark_point(shape="triangle-right", size=90)
        layers.append(far.encode(x=alt.X(datum=values.edge), tooltip=tooltip))
    if pruned["seed"].nunique() > 1:
        stroke = strips.mark_tick(thickness=2.5, size=18, clip=True)
        layers.append(stroke.encode(x=alt.X("mean(value):Q", scale=values.scale)))
    numbers = strips.transform_filter(values.cut("<=")) if values.is_cut else strips
    told = numbers.mark_text(align="left", dx=8, fontSize=11)
    place = alt.X("max(value):Q", scale=values.scale)
    layers.append(told.encode(x=place, text=alt.Text("mean(value):Q", format=".4g")))
    dense = rows.loc[rows["recipe"] == DENSE, columns].head(1)
    if len(dense):
        mark = strips.mark_point(shape="stroke", angle=90, size=BAND**2, strokeWidth=1.5)
        place = alt.X(datum=float(dense["value"].iloc[0]))
        layers.insert(0, mark.encode(x=place, color=alt.value(DENSE_COLOUR)))
        words = alt.Chart(dense).encode(x=values.across)
        words = words.mark_text(align="left", dx=4, dy=-5, color=DENSE_COLOUR, fontSize=11)
        layers.append(words.encode(text=alt.value("dense"), y=alt.value("height")))
    return alt.layer(*layers), names
