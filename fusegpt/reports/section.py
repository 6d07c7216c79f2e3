"""One model of one experiment on the page: its tables and charts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from fusegpt.reports import tables
from fusegpt.reports.charts import fusion_chart, importance_chart, loss_chart, stack_chart
from fusegpt.reports.collect import DENSE, Curves
from fusegpt.reports.costs import cost_rows, memory_chart, time_chart
from fusegpt.reports.curves import curve_charts
from fusegpt.reports.frontier import frontier_chart, speed_axis
from fusegpt.reports.grid import protocol_grid, results_grid, step_grid
from fusegpt.reports.quality import quality_chart
from fusegpt.reports.runs import Step, read_finishes, read_steps

__all__ = ["Charts", "model_section"]

STRIP, MARGIN, ROW = 46, 8, 26
"""Heights in pixels: of a run's strip with its label, around strips, of a row of cells."""


@dataclass(frozen=True)
class Run:
    """A run on the page; ``finishes``: the losses of recoveries after the last removal."""

    label: str
    recipe_id: str
    steps: list[Step]
    finishes: dict[int, list[dict[str, Any]]]


class Charts:
    """The specifications of a page's charts, by the name of their place."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}

    def add(self, chart: alt.TopLevelMixin | None, height: int, words: str) -> str | None:
        """Keep a chart under a new name; it fills the width it is given.

        Args:
            chart: None is returned as it is.
            height: In pixels, of the drawing without axes.
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
    """What the template needs for one model.

    Args:
        frame: Rows of ``collect`` of one experiment.
        model: Which model.
        results: The folder that holds ``runs`` and ``evaluations``.
        papers: From ``read_published``; its values of this model are drawn, too.
        charts: Gets the charts.
        curves: What the experiment varies.
    """
    rows = frame[frame["model"] == model]
    place = f"{frame['experiment'].iloc[0]}-{model}"
    runs = _runs(rows, results)
    return {
        "name": model,
        "place": place,
        "table": results_grid(place, rows),
        "protocols": protocol_grid(f"{place}-protocols", rows),
        "measured": _measured(frame, model, papers, charts),
        "varied": _varied(frame, model, curves or {}, charts),
        "costs": _costs(rows, model, results, runs, charts),
        **_removals(runs, int(rows["num_blocks"].iloc[0]), place, charts),
    }


def _measured(
    frame: pd.DataFrame, model: str, papers: pd.DataFrame, charts: Charts
) -> dict[str, Any]:
    """Every value, the main ones apart, and the frontiers."""
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


def _varied(
    frame: pd.DataFrame, model: str, curves: Curves, charts: Charts
) -> list[dict[str, str | None]]:
    """The main values over what the experiment varies."""
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
    spent = cost_rows(results, model, {run.label: (run.recipe_id, run.steps) for run in runs}, last)
    if not spent:
        return {}
    height = STRIP * len({row["run"] for row in spent}) + MARGIN
    memory = memory_chart(spent)
    return {
        "time": charts.add(time_chart(spent), height, "time of each stage of each run"),
        "memory": charts.add(memory, height, "peak memory of each stage of each run"),
    }


def _removals(runs: Sequence[Run], num_blocks: int, place: str, charts: Charts) -> dict[str, Any]:
    stepped = [run for run in runs if run.steps]
    stack = {run.label: run.steps for run in stepped}
    words = "the stack of blocks of each run: which were removed at which step, which received them"
    picture = stack_chart(stack, num_blocks) if stack else None
    return {
        "stack": charts.add(picture, STRIP * len(stack) + MARGIN, words),
        "runs": [_run(run, num_blocks, place, charts) for run in stepped],
    }


def _runs(rows: pd.DataFrame, results: Path) -> list[Run]:
    """Every run of a model, a sliced one without steps; several seeds are named."""
    found = []
    pruned = rows[rows["recipe"] != DENSE]
    several = pruned["seed"].nunique() > 1
    for (recipe, seed, recipe_id), group in pruned.groupby(
        ["recipe", "seed", "recipe_id"], sort=False
    ):
        place = Path(str(group["model"].iloc[0]), recipe_id)
        steps = read_steps(results / "runs" / place, int(group["step"].max()))
        finishes = read_finishes(results / "checkpoints" / place)
        label = f"{recipe} seed {seed}" if several else recipe
        found.append(Run(label, recipe_id, steps, finishes))
    return found


def _run(run: Run, num_blocks: int, place: str, charts: Charts) -> dict[str, Any]:
    label, steps = run.label, run.steps
    height = ROW * len(steps)
    sublayers = len({unit["granularity"] for step in steps for unit in step.scores})
    importance = f"{label}: importance of every block before each step"
    fusions = (
        f"{label}: what each step removed, and which blocks were tuned or received its weights"
    )
    losses = f"{label}: loss of each step's tuning"
    return {
        "label": label,
        "id": run.recipe_id,
        "sublayers": sublayers > 1,
        "importance": charts.add(importance_chart(steps), height * sublayers, importance),
        "fusions": charts.add(fusion_chart(steps, num_blocks), height, fusions),
        "losses": charts.add(loss_chart(steps, run.finishes), 240, losses),
        "table": step_grid(f"{place}-{run.recipe_id}", steps),
    }
