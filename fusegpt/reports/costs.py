"""Time and memory of each stage of each run, read from the records that the stages left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from fusegpt.reports.figures import labels_above
from fusegpt.reports.run import Run
from fusegpt.results import layout as at
from fusegpt.results.base import read
from fusegpt.results.models import Evaluation, Slice
from fusegpt.results.point import DENSE
from fusegpt.results.records import Scores, Step
from fusegpt.results.recovered import Finish

__all__ = ["STAGES", "cost_rows", "memory_chart", "time_chart"]

STAGES = {"score": "#56b4e9", "recover": "#009e73", "slice": "#cc79a7", "evaluate": "#e69f00"}
"""A recovery after the last removal is a part of ``recover``; a width baseline only slices."""
MINUTES_FROM = 600.0

Stage = Scores | Step | Finish | Slice | Evaluation
"""A record of what a stage did, which says how long it took and with how much memory."""


def cost_rows(results: Path, model: str, runs: Sequence[Run], last: int) -> list[dict[str, Any]]:
    """Return the seconds and the peak memory of every stage.

    Args:
        results: The results folder.
        model: Name of the dense model.
        runs: Runs of that model.
        last: Only recoveries and evaluations after this many removals or fewer count.

    Returns:
        Rows: run, stage, step, seconds, memory_gib (None: not recorded).
    """
    found = []
    for run in runs:
        spent: list[tuple[str, int, Stage]] = []
        for link in run.links:
            spent.append(("score", link.record.step, link.scores))
            spent.append(("recover", link.record.step, link.record))
        spent += [("recover", k, finish) for k, finish in run.finishes.items() if k <= last]
        sliced = at.sliced.found_in(results, model=model, recipe=run.recipe_id)
        spent += [("slice", 0, read(file.path, Slice)) for file in sliced]
        spent += _evaluations(results, model, run.recipe_id, last)
        found += [_row(run.label, *entry) for entry in spent]
    return found + [_row(DENSE, *entry) for entry in _evaluations(results, model, DENSE, 0)]


def _evaluations(
    results: Path, model: str, recipe_id: str, last: int
) -> list[tuple[str, int, Stage]]:
    files = at.evaluation.found_in(results, model=model, recipe=recipe_id)
    return [
        ("evaluate", file.place.number, read(file.path, Evaluation))
        for file in files
        if file.place.number <= last
    ]


def _row(run: str, stage: str, step: int, spent: Stage) -> dict[str, Any]:
    return {
        "run": run,
        "stage": stage,
        "step": step,
        "seconds": round(spent.seconds or 0.0, 3),
        "memory_gib": spent.memory_gib,
    }


def time_chart(rows: Sequence[Mapping[str, Any]]) -> alt.Chart:
    """Draw one bar per run, made of its stages."""
    data = pd.DataFrame(rows).groupby(["run", "stage"], sort=False, as_index=False)["seconds"].sum()
    minutes = data.groupby("run")["seconds"].sum().max() >= MINUTES_FROM
    data["time"] = data["seconds"] / (60 if minutes else 1)
    tooltip = ["run", "stage", alt.Tooltip("seconds", format=",.1f")]
    return (
        alt.Chart(data)
        .mark_bar(cornerRadius=2)
        .encode(
            x=alt.X("sum(time):Q", title="minutes" if minutes else "seconds"),
            y=labels_above(list(pd.unique(data["run"]))),
            color=_stage_colour(data),
            order=alt.Order("place:Q"),
            tooltip=tooltip,
        )
        .transform_calculate(place=f"indexof({list(STAGES)}, datum.stage)")
    )


def memory_chart(rows: Sequence[Mapping[str, Any]]) -> alt.Chart | None:
    """Draw the highest memory of each stage of each run; None when nothing was recorded."""
    data = pd.DataFrame(rows).dropna(subset="memory_gib")
    if data.empty:
        return None
    data = data.groupby(["run", "stage"], sort=False, as_index=False)["memory_gib"].max()
    encoded = alt.Chart(data).encode(
        x=alt.X("memory_gib:Q", title="peak memory, GiB", axis=alt.Axis(tickCount=6)),
        y=labels_above(list(pd.unique(data["run"]))),
        color=_stage_colour(data),
        tooltip=["run", "stage", alt.Tooltip("memory_gib", format=".2f")],
    )
    return encoded.mark_point(filled=True, size=110, opacity=0.9)


def _stage_colour(data: pd.DataFrame) -> alt.Color:
    """Colours of the stages that occur."""
    found = [stage for stage in STAGES if (data["stage"] == stage).any()]
    scale = alt.Scale(domain=found, range=[STAGES[stage] for stage in found])
    legend = alt.Legend(title=None, orient="top", columns=4, symbolType="square")
    return alt.Color("stage:N", scale=scale, legend=legend)
