"""One model of one experiment on the page: its tables and charts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from fusegpt.reports import tables
from fusegpt.reports.charts import fusion_chart, importance_chart, loss_chart, stack_chart
from fusegpt.reports.collect import whole_models
from fusegpt.reports.costs import cost_rows, memory_chart, time_chart
from fusegpt.reports.curves import curve_charts
from fusegpt.reports.frontier import frontier_chart, size_axis, speed_axis
from fusegpt.reports.grid import protocol_grid, results_grid, step_grid
from fusegpt.reports.quality import quality_chart
from fusegpt.reports.run import Run, read_runs
from fusegpt.results.contents import Curves

__all__ = ["Charts", "model_section"]

STRIP, MARGIN, ROW = 46, 8, 26
"""Heights in pixels: of a run's strip with its label, around strips, of a row of cells."""


class Charts:
    """Specifications of a page's charts, by the name of their place."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}

    def add(self, chart: alt.TopLevelMixin | None, height: int, words: str) -> str | None:
        """Keep a chart under a new name; it fills the width it is given.

        Args:
            chart: None is returned as it is.
            height: Height in pixels of the drawing without axes.
            words: What it shows, for those who cannot see it.
        """
        if chart is None:
            return None
        name = f"chart{len(self.found)}"
        autosize = alt.AutoSizeParams(type="fit-x", contains="padding")
        whole = chart.properties(
            width="container", height=height, autosize=autosize, description=words
        )
        self.found[name] = whole.to_dict()
        self.found[name].pop("config", None)
        return name

    def as_json(self) -> str:
        """All of them, safe inside a script."""
        return json.dumps(self.found).replace("<", "\\u003c")


def model_section(
    frame: pd.DataFrame,
    model: str,
    results: Path,
    papers: pd.DataFrame,
    charts: Charts,
    curves: Curves | None = None,
) -> dict[str, Any]:
    """Return what the template needs for one model.

    Args:
        frame: Rows of ``collect`` of one experiment; those of exports are drawn over file size.
        model: Which model.
        results: The results folder.
        papers: Published values from ``read_published``; those of this model are drawn, too.
        charts: Receives the charts.
        curves: What the experiment varies.
    """
    sizes = _sizes(frame[frame["model"] == model], charts)
    frame = whole_models(frame)
    rows = frame[frame["model"] == model]
    place = f"{frame['experiment'].iloc[0]}-{model}"
    runs = read_runs(rows, results)
    return {
        "name": model,
        "place": place,
        "table": results_grid(place, rows),
        "protocols": protocol_grid(f"{place}-protocols", rows),
        "measured": _measured(frame, model, papers, charts),
        "sizes": sizes,
        "varied": _varied(frame, model, curves or {}, charts),
        "costs": _costs(rows, model, results, runs, charts),
        **_removals(runs, int(rows["num_blocks"].iloc[0]), place, charts),
    }


def _measured(
    frame: pd.DataFrame, model: str, papers: pd.DataFrame, charts: Charts
) -> dict[str, Any]:
    """Charts of every value, the main ones apart, and the frontiers."""
    rows = frame[frame["model"] == model]
    labels = tables.value_labels(rows)
    main = tables.main_labels(rows) or labels
    curves: dict[str, list[dict[str, Any]]] = {"main": [], "other": []}
    legends = False
    for label in labels:
        drawn = quality_chart(frame, model, label, papers)
        name = charts.add(drawn.chart, drawn.height(300), drawn.words)
        curves["main" if label in main else "other"].append({"chart": name, "words": drawn.words})
        legends = legends or not drawn.strips
    axis = speed_axis(rows)
    frontiers = [
        {"chart": charts.add(chart, 300, f"{label} against {axis.title}"), "label": label}
        for label in main
        if (chart := frontier_chart(rows, label, axis)) is not None
    ]
    known = bool((papers["model"] == model).any())
    return {
        "curves": curves,
        "legends": legends,
        "published": known,
        "frontiers": frontiers,
        "speed_measured": axis.measured,
    }


def _sizes(rows: pd.DataFrame, charts: Charts) -> list[dict[str, str | None]]:
    """Frontiers over file size, where models were exported."""
    axis = size_axis(rows)
    return [
        {"chart": charts.add(chart, 300, f"{label} against {axis.title}"), "label": label}
        for label in tables.main_labels(rows)
        if axis is not None and (chart := frontier_chart(rows, label, axis)) is not None
    ]


def _varied(
    frame: pd.DataFrame, model: str, curves: Curves, charts: Charts
) -> list[dict[str, str | None]]:
    """Charts of the main values over what the experiment varies."""
    rows = frame[frame["model"] == model]
    return [
        {"chart": charts.add(chart, 300, words), "label": words}
        for label in tables.main_labels(rows) or tables.value_labels(rows)
        for words, chart in curve_charts(frame, model, label, curves)
    ]


def _costs(
    rows: pd.DataFrame, model: str, results: Path, runs: Sequence[Run], charts: Charts
) -> dict[str, str | None]:
    last = int(rows["step"].max())
    spent = cost_rows(results, model, runs, last)
    if not spent:
        return {}
    height = STRIP * len({row["run"] for row in spent}) + MARGIN
    memory = memory_chart(spent)
    return {
        "time": charts.add(time_chart(spent), height, "time of each stage of each run"),
        "memory": charts.add(memory, height, "peak memory of each stage of each run"),
    }


def _removals(runs: Sequence[Run], num_blocks: int, place: str, charts: Charts) -> dict[str, Any]:
    stepped = [run for run in runs if run.links]
    stack = {run.label: run.links for run in stepped}
    words = "the stack of blocks of each run: which were removed at which step, which received them"
    picture = stack_chart(stack, num_blocks) if stack else None
    return {
        "stack": charts.add(picture, STRIP * len(stack) + MARGIN, words),
        "runs": [_run(run, num_blocks, place, charts) for run in stepped],
    }


def _run(run: Run, num_blocks: int, place: str, charts: Charts) -> dict[str, Any]:
    label, links = run.label, run.links
    height = ROW * len(links)
    kinds = {scored.granularity for link in links for scored in link.scores.units}
    importance = f"{label}: importance of every block before each step"
    fusions = (
        f"{label}: what each step removed, and which blocks were tuned or received its weights"
    )
    losses = f"{label}: loss of each step's tuning"
    return {
        "label": label,
        "id": run.recipe_id,
        "sublayers": len(kinds) > 1,
        "importance": charts.add(importance_chart(links), height * len(kinds), importance),
        "fusions": charts.add(fusion_chart(links, num_blocks), height, fusions),
        "losses": charts.add(loss_chart(links, run.finishes), 240, losses),
        "table": step_grid(f"{place}-{run.recipe_id}", links),
    }
