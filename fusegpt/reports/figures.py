"""Measured values over sparsity, a line per recipe; as charts for the page and as an SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import pandas as pd

from fusegpt.artifacts import atomic_path
from fusegpt.reports.collect import DENSE
from fusegpt.reports.tables import value_labels, with_labels

__all__ = ["PALETTE", "sparsity_chart", "write_svg"]

PALETTE = ("#2f86c9", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8f7a00", "#7b5ea7")
"""After Okabe and Ito: told apart by most colour-blind eyes, on white and on near-black."""

DENSE_COLOUR = "#888888"
LOG_FROM = 5.0
"""The axis becomes logarithmic when the largest value is this many times the smallest."""


def sparsity_chart(frame: pd.DataFrame, model: str, label: str) -> alt.LayerChart:
    """One value of one model over sparsity: a line per recipe through the mean of the seeds.

    Every line starts at the dense model, which is step 0 of every recipe; each seed is a point.

    Args:
        frame: Rows of ``collect``.
        model: Which model.
        label: Which value, one of ``value_labels(frame)``.
    """
    points = _points(frame, model, label)
    recipes = [name for name in pd.unique(points["recipe"]) if name != DENSE]
    colours = alt.Scale(domain=recipes, range=colours_of(recipes))
    low, high = points["value"].min(), points["value"].max()
    scale = alt.Scale(type="log") if low > 0 and high / low >= LOG_FROM else alt.Scale(zero=False)
    x = alt.X(
        "sparsity:Q",
        title="sparsity (blocks removed)",
        axis=alt.Axis(format=".0%", values=sorted(points["sparsity"].unique()), grid=False),
    )
    y = alt.Y("value:Q", title=label + (" (log)" if scale.type == "log" else ""), scale=scale)
    colour = alt.Color(
        "recipe:N",
        scale=colours,
        legend=alt.Legend(title=None, orient="top", columns=2, labelLimit=260),
    )
    lines = alt.Chart(points[points["recipe"] != DENSE]).encode(x=x, color=colour)
    tooltip = ["recipe", "seed", alt.Tooltip("sparsity", format=".1%"), "blocks_left", "value"]
    layers = [
        lines.mark_line(strokeWidth=2.5).encode(y=alt.Y("mean(value):Q", scale=scale)),
        lines.mark_point(filled=True, size=70, opacity=0.9).encode(y=y, tooltip=tooltip),
    ]
    dense = points[points["recipe"] == DENSE].head(1)
    if len(dense):
        rule = alt.Chart(dense).encode(y=y)
        layers.insert(0, rule.mark_rule(strokeDash=[5, 4], color=DENSE_COLOUR))
        words = rule.mark_text(align="right", dy=-6, color=DENSE_COLOUR, fontSize=11)
        layers.append(words.encode(text=alt.value("dense"), x=alt.value("width")))
    return alt.layer(*layers)


def colours_of(recipes: Sequence[str]) -> list[str]:
    """A colour for each recipe, by its place."""
    return [PALETTE[place % len(PALETTE)] for place in range(len(recipes))]


def write_svg(path: str | Path, frame: pd.DataFrame) -> None:
    """Write one panel per model (rows) and value (columns) as an SVG."""
    rows = []
    for model in pd.unique(frame["model"]):
        panels = [
            sparsity_chart(frame, model, label).properties(width=360, height=260, title=model)
            for label in value_labels(frame[frame["model"] == model])
        ]
        rows.append(alt.hconcat(*panels))
    chart = alt.vconcat(*rows).configure(background="white").configure_view(stroke=None)
    with atomic_path(path) as partial:
        chart.save(str(partial), format="svg")


def _points(frame: pd.DataFrame, model: str, label: str) -> pd.DataFrame:
    """The rows of one chart, and the dense model's value as the start of every recipe."""
    rows = with_labels(frame[frame["model"] == model])
    rows = rows[rows["label"] == label]
    dense = rows[rows["recipe"] == DENSE]
    starts = []
    for recipe, seed in rows[["recipe", "seed"]].drop_duplicates().itertuples(index=False):
        present = rows[(rows["recipe"] == recipe) & (rows["seed"] == seed)]["step"]
        if recipe != DENSE and not (present == 0).any() and len(dense):
            starts.append(dense.head(1).assign(recipe=recipe, seed=seed))
    columns = ["recipe", "seed", "sparsity", "blocks_left", "value"]
    return pd.concat([rows, *starts])[columns]
