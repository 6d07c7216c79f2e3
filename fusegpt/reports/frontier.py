"""Quality against speed: which pruned models nothing else beats in both."""

from __future__ import annotations

from dataclasses import dataclass

import altair as alt
import pandas as pd

from fusegpt.reports.axes import Values, beyond, value_axis, within
from fusegpt.reports.palette import DENSE_COLOUR, recipe_marks, recipes_of
from fusegpt.reports.tables import format_sparsity, with_labels
from fusegpt.results.point import DENSE

__all__ = ["Axis", "frontier_chart", "size_axis", "speed_axis"]

KEY = ["recipe", "recipe_id", "sparsity", "step", "export"]
SPEED_UP = "_speedup"
"""End of the name of every metric that is a measured speed over the dense model's."""


@dataclass(frozen=True)
class Axis:
    """The measure that stands for speed.

    Attributes:
        title: Title of the axis.
        measured: Whether speed was measured; otherwise the remaining parameters stand for it.
        values: Columns recipe, recipe_id, sparsity, step, export, cost.
        more_is_better: Whether a higher ``cost`` is better.
    """

    title: str
    measured: bool
    values: pd.DataFrame
    more_is_better: bool


def speed_axis(rows: pd.DataFrame) -> Axis:
    """Return the measured speed-up over the dense model, or else the remaining parameters.

    A speed-up was measured with the dense model in turn, so the dense model has 1. Of several
    metrics the last counts, of several tasks the first.

    Args:
        rows: Rows of ``collect`` of one model.
    """
    named = with_labels(rows[rows["metric"].str.endswith(SPEED_UP)])
    if len(named):
        metric = named["metric"].iloc[-1]
        found = named[named["metric"] == metric]
        first = found[found["label"] == found["label"].iloc[0]]
        values = first[[*KEY, "value"]].rename(columns={"value": "cost"})
        dense = rows[rows["recipe"] == DENSE][KEY].drop_duplicates().assign(cost=1.0)
        what, task = metric.removesuffix(SPEED_UP), first["task"].iloc[0]
        title = f"{what} speed, times the dense model's ({task})"
        return Axis(title, True, pd.concat([dense, values]), True)
    values = rows[[*KEY, "parameters"]].drop_duplicates()
    values = values.assign(cost=values["parameters"] / 1e6)[[*KEY, "cost"]]
    return Axis("remaining parameters, millions", False, values, False)


def size_axis(rows: pd.DataFrame) -> Axis | None:
    """Return how large the files of models and of their exports are; None: nothing was exported.

    Args:
        rows: Rows of ``collect`` of one model, those of exports included.
    """
    known = rows[rows["file_bytes"].notna()]
    if not (known["export"] != "").any():
        return None
    values = known[[*KEY, "file_bytes"]].drop_duplicates()
    values = values.assign(cost=values["file_bytes"] / 1e6)[[*KEY, "cost"]]
    return Axis("file size, MB", True, values, False)


def frontier_chart(rows: pd.DataFrame, label: str, axis: Axis) -> alt.LayerChart | None:
    """Draw one value against speed: a point per recipe, sparsity and seed, a line at the frontier.

    Args:
        rows: Rows of ``collect`` of one model.
        label: Which value, one of ``value_labels``.
        axis: From ``speed_axis``.

    Returns:
        The chart; None where all models are equally fast, or large.
    """
    named = with_labels(rows)
    data = named[named["label"] == label].merge(axis.values, on=KEY)
    if data["cost"].nunique() < 2:
        return None
    better = bool(data["higher_is_better"].iloc[0])
    data = data[[*KEY, "seed", "value", "cost"]].assign(
        frontier=_frontier(data, better, axis.more_is_better)
    )
    data["words"] = _words(data, better)
    values = value_axis(data["value"], label, padding=16)
    ticks = alt.Axis(tickCount=5)
    x = alt.X("cost:Q", title=axis.title, scale=alt.Scale(zero=False, padding=16), axis=ticks)
    return alt.layer(*_layers(data, recipes_of(rows), x, values, -12 if better else 16))


def _layers(
    data: pd.DataFrame, recipes: list[str], x: alt.X, values: Values, dy: int
) -> list[alt.Chart]:
    placed = alt.Chart(data).encode(x=x)
    base = within(placed, values)
    marks = recipe_marks(recipes, "frontier", dense=True)
    tooltip = [
        "recipe",
        "export",
        "seed",
        alt.Tooltip("sparsity", format=".1%"),
        "cost",
        "value",
        "frontier",
    ]
    line = base.transform_filter("datum.frontier").mark_line(
        strokeDash=[5, 4], color=DENSE_COLOUR, order=False
    )
    told = {"color": marks.colour, "opacity": marks.opacity, "tooltip": tooltip}
    points = base.mark_point(filled=True, size=90).encode(shape=marks.shape, **told)
    best = base.transform_filter("datum.frontier")
    words = best.mark_text(dy=dy, fontSize=11, color=DENSE_COLOUR).encode(text="words:N")
    above = beyond(placed.encode(**told), values)
    return [line.encode(order="cost:Q"), points.add_params(marks.choice), *above, words]


def _words(data: pd.DataFrame, higher: bool) -> pd.Series:
    """The sparsity and what it was exported to, at the frontier's best point of each."""
    best = data[data["frontier"]].sort_values("value", ascending=not higher)
    best = best.drop_duplicates(["sparsity", "export"])
    cut = (
        best["sparsity"]
        .map(format_sparsity)
        .mask((best["sparsity"] == 0) & (best["export"] != ""), "")
    )
    named = cut + " " + best["export"].str.removeprefix("gguf:")
    return named.str.strip().reindex(data.index, fill_value="")


def _frontier(data: pd.DataFrame, higher: bool, more: bool) -> list[bool]:
    """Whether no other point is at least as good in both and better in one."""
    quality = data["value"] if higher else -data["value"]
    speed = data["cost"] if more else -data["cost"]
    pairs = list(zip(quality, speed, strict=True))
    return [
        not any(q >= mine and s >= own and (q > mine or s > own) for q, s in pairs)
        for mine, own in pairs
    ]
