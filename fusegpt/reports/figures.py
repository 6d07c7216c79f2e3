"""Measured values over sparsity, a line per recipe."""

from __future__ import annotations

import altair as alt
import pandas as pd

from fusegpt.reports.axes import value_axis, value_lines, within
from fusegpt.reports.palette import DENSE_COLOUR, recipe_marks, recipes_of
from fusegpt.reports.tables import value_names, with_labels
from fusegpt.results.point import DENSE

__all__ = ["REMAINING", "labels_above", "published_marks", "sparsity_chart"]

REMAINING = alt.Tooltip("blocks_left", title="remaining blocks")


def sparsity_chart(
    frame: pd.DataFrame, model: str, label: str, papers: pd.DataFrame | None = None
) -> alt.LayerChart:
    """Draw one value of one model over sparsity: a line per recipe through the mean of the seeds.

    Every line starts at the dense model, which is step 0 of every recipe; each seed is a point.

    Args:
        frame: Rows of ``collect``.
        model: Which model.
        label: Which value, one of ``value_labels(frame)``.
        papers: From ``read_published``; what has the same model, recipe and metric is drawn as
            hollow diamonds, whatever its protocol.
    """
    points = _points(frame, model, label)
    recipes = recipes_of(frame[frame["model"] == model])
    marks = recipe_marks(recipes, f"{model} {label}")
    x = alt.X(
        "sparsity:Q",
        title=_sparsity_title(frame),
        axis=alt.Axis(format=".0%", values=sorted(points["sparsity"].unique()), grid=False),
    )
    values = value_axis(points["value"], label)
    tooltip = ["recipe", "seed", alt.Tooltip("sparsity", format=".1%"), REMAINING, "value"]
    layers = value_lines(points[points["recipe"] != DENSE], x, values, marks, tooltip)
    dense = points[points["recipe"] == DENSE].head(1)
    if len(dense):
        rule = alt.Chart(dense).encode(y=values.each)
        layers.insert(0, rule.mark_rule(strokeDash=[5, 4], color=DENSE_COLOUR))
        words = rule.mark_text(align="right", dy=-6, color=DENSE_COLOUR, fontSize=11)
        layers.append(words.encode(text=alt.value("dense"), x=alt.value("width")))
    diamonds = published_marks(frame, model, label, papers, recipes)
    if diamonds is not None:
        layers.append(within(diamonds, values).encode(x=x, color=marks.colour))
    return alt.layer(*layers)


def _sparsity_title(frame: pd.DataFrame) -> str:
    """What sparsity is a fraction of, where it is the same for all recipes."""
    pruned = frame[frame["recipe"] != DENSE]
    blocks = (pruned["granularity"] == "block") & (pruned["blocks_left"] < pruned["num_blocks"])
    removed = blocks | (pruned["sparsity"] == 0)
    return "sparsity (blocks removed)" if removed.all() else "sparsity"


def published_marks(
    frame: pd.DataFrame, model: str, label: str, papers: pd.DataFrame | None, recipes: list[str]
) -> alt.Chart | None:
    """Draw a hollow diamond for each published value of what a chart shows; None: there is none.

    Args:
        frame: Rows of ``collect``.
        model: Which model.
        label: Which value.
        papers: From ``read_published``.
        recipes: Recipes that are drawn.

    Returns:
        Marks without a place: the chart that they join gives them its axes.
    """
    if papers is None or papers.empty:
        return None
    rows = with_labels(frame[frame["model"] == model])
    names = set(value_names(rows[rows["label"] == label]))
    same = papers["metric"].isin(names) & (papers["model"] == model)
    found = papers[same & papers["method"].isin(recipes)].rename(columns={"method": "recipe"})
    if found.empty:
        return None
    about = ["source", "table", "row", "value", "note"]
    diamonds = alt.Chart(found[["recipe", "sparsity", *about]])
    diamonds = diamonds.mark_point(shape="diamond", size=110, strokeWidth=2, clip=True)
    return diamonds.encode(tooltip=about)


def labels_above(order: list[str], field: str = "run") -> alt.Y:
    """Return an axis with a strip for each name, whose label stands above it.

    That leaves the strip the whole width of a phone.
    """
    axis = alt.Axis(
        labelAlign="left",
        labelPadding=0,
        labelOffset=-21,
        labelLimit=320,
        ticks=False,
        domain=False,
    )
    scale = alt.Scale(padding=0.45)
    return alt.Y(f"{field}:N", title=None, sort=order, scale=scale, axis=axis)


def _points(frame: pd.DataFrame, model: str, label: str) -> pd.DataFrame:
    """The rows of one chart, and the dense model's value as the start of every recipe."""
    rows = with_labels(frame[frame["model"] == model])
    rows = rows[rows["label"] == label]
    dense = rows[rows["recipe"] == DENSE]
    starts = []
    for recipe, seed in rows[["recipe", "seed"]].drop_duplicates().itertuples(index=False):
        present = rows[(rows["recipe"] == recipe) & (rows["seed"] == seed)]["sparsity"]
        if recipe != DENSE and not (present == 0).any() and len(dense):
            starts.append(dense.head(1).assign(recipe=recipe, seed=seed))
    columns = ["recipe", "seed", "sparsity", "blocks_left", "value"]
    return pd.concat([rows, *starts])[columns]
