"""Time and memory of each stage of each run, read from the records that the stages left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from fusegpt.artifacts import read_json
from fusegpt.reports.collect import DENSE
from fusegpt.reports.figures import labels_above
from fusegpt.reports.runs import Step

__all__ = ["STAGES", "cost_rows", "memory_chart", "time_chart"]

STAGES = {"score": "#56b4e9", "recover": "#009e73", "slice": "#cc79a7", "evaluate": "#e69f00"}
"""A recovery after the last removal is a part of ``recover``; a width baseline only slices."""
MINUTES_FROM = 600.0


def cost_rows(
    results: Path, model: str, runs: Mapping[str, tuple[str, Sequence[Step]]], last: int
) -> list[dict[str, Any]]:
    """Seconds and peak memory of every stage.

    Args:
        results: The folder that holds ``evaluations``, ``checkpoints`` and ``slices``.
        model: Which model.
        runs: Label of a run to its recipe id and its steps; a sliced model has none.
        last: Only evaluations of steps up to this one count.

    Returns:
        Rows: run, stage, step, seconds, memory_gib (None: not recorded).
    """
    rows = []
    for label, (recipe_id, steps) in runs.items():
        for step in steps:
            rows.append(_row(label, "score", step.number, step.score_seconds, step.score_memory))
            rows.append(_row(label, "recover", step.number, step.fuse_seconds, step.memory_gib))
        rows += _records(results / "checkpoints" / model / recipe_id, label, "recover", last)
        rows += _records(results / "slices" / model / recipe_id, label, "slice", last)
        rows += _records(results / "evaluations" / model / recipe_id, label, "evaluate", last)
    return rows + _records(results / "evaluations" / model / DENSE, DENSE, "evaluate", 0)


def _records(directory: Path, label: str, stage: str, last: int) -> list[dict[str, Any]]:
    """What other stages wrote beside the steps; of a checkpoint its recovery at the end counts."""
    rows = []
    for file in sorted(directory.glob("s*-*/*.json")):
        kind, _, place = file.parent.name.partition("-")
        step = int(place) if kind == "step" else 0
        notes = read_json(file) if step <= last and _counts(file, stage) else {}
        spent = notes.get("finish", {}) if stage == "recover" else notes
        if "seconds" in spent:
            memory = spent.get("peak_memory_gib", spent.get("memory_gib"))
            rows.append(_row(label, stage, step, float(spent["seconds"]), memory))
    return rows


def _counts(file: Path, stage: str) -> bool:
    return stage == "evaluate" or file.name == "fusegpt.json"


def _row(
    run: str, stage: str, step: int, seconds: float, memory_gib: float | None
) -> dict[str, Any]:
    return {
        "run": run,
        "stage": stage,
        "step": step,
        "seconds": round(seconds, 3),
        "memory_gib": memory_gib,
    }


def time_chart(rows: Sequence[Mapping[str, Any]]) -> alt.Chart:
    """One bar per run, made of its stages."""
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
    """The highest memory of each stage of each run; None when nothing was recorded."""
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
    """Of the stages that occur."""
    found = [stage for stage in STAGES if (data["stage"] == stage).any()]
    scale = alt.Scale(domain=found, range=[STAGES[stage] for stage in found])
    legend = alt.Legend(title=None, orient="top", columns=4, symbolType="square")
    return alt.Color("stage:N", scale=scale, legend=legend)
