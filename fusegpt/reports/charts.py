"""Charts of one run: what was removed, the importance of every block, the losses of tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from fusegpt.reports.runs import Step

__all__ = ["importance_chart", "loss_chart", "stack_chart"]

REMOVED, FUSED, TUNED, KEPT = "#d55e00", "#009e73", "#56b4e9", "#b9bec6"
STATES = ("removed", "received weights", "tuned", "untouched")


def stack_chart(runs: Mapping[str, Sequence[Step]], num_blocks: int) -> alt.LayerChart:
    """One strip of blocks per run: removed ones with the step, receivers with how often.

    Args:
        runs: Label of the run to its steps.
        num_blocks: Of the dense model.
    """
    data = pd.DataFrame(
        [row for label, steps in runs.items() for row in _stack_rows(label, steps, num_blocks)]
    )
    colours = alt.Scale(domain=list(STATES), range=[REMOVED, FUSED, TUNED, KEPT])
    # Labels above their strips leave a phone's whole width to the blocks.
    above = alt.Axis(
        labelAlign="left",
        labelPadding=0,
        labelOffset=-21,
        labelLimit=320,
        ticks=False,
        domain=False,
    )
    base = alt.Chart(data).encode(
        x=_block_axis(),
        y=alt.Y("run:N", title=None, sort=list(runs), scale=alt.Scale(padding=0.45), axis=above),
    )
    boxes = base.mark_rect(cornerRadius=2).encode(
        color=alt.Color("state:N", scale=colours, legend=_top_legend()),
        opacity=alt.condition("datum.state == 'removed'", alt.value(1), alt.value(0.75)),
        tooltip=["run", "block", "state", "removed_at_step", "fusions"],
    )
    numbers = base.mark_text(fontSize=10, fontWeight="bold", color="#ffffff").encode(text="text:N")
    return alt.layer(boxes, numbers)


def _stack_rows(label: str, steps: Sequence[Step], num_blocks: int) -> list[dict[str, Any]]:
    removed = {unit["index"]: step.number for step in steps for unit in step.units}
    rows = []
    for block in range(num_blocks):
        fusions = sum(block in step.fused_into for step in steps)
        tuned = sum(block in step.group for step in steps)
        if block in removed:
            state, text = "removed", str(removed[block])
        elif fusions:
            state, text = "received weights", ""
        else:
            state, text = ("tuned" if tuned else "untouched"), ""
        row = {"run": label, "block": block, "state": state, "text": text, "fusions": fusions}
        rows.append({**row, "removed_at_step": removed.get(block)})
    return rows


def importance_chart(steps: Sequence[Step]) -> alt.LayerChart:
    """Importance of every unit before each step as a heat map; the removed one is ringed."""
    rows = [
        {
            "step": step.number,
            "block": unit["index"],
            "granularity": unit["granularity"],
            "score": unit["score"],
            "removed": unit["index"] == step.unit["index"],
        }
        for step in steps
        for unit in step.scores
    ]
    data = pd.DataFrame(rows)
    positive = data["score"].gt(0).all() and data["score"].max() > 20 * data["score"].min()
    kind = "log" if positive else "linear"
    base = alt.Chart(data).encode(x=_block_axis(), y=alt.Y("step:O", title="step"))
    cells = base.mark_rect().encode(
        color=alt.Color(
            "score:Q",
            scale=alt.Scale(type=kind, scheme="viridis"),
            legend=alt.Legend(
                title=f"{steps[0].metric} (high = keep)",
                orient="top",
                gradientLength=180,
                titleLimit=320,
            ),
        ),
        tooltip=["step", "block", "granularity", alt.Tooltip("score", format=".4g"), "removed"],
    )
    ring = base.transform_filter("datum.removed").mark_point(
        shape="circle", size=70, stroke=REMOVED, strokeWidth=2.5, filled=True, fill="#ffffff"
    )
    return alt.layer(cells, ring)


def loss_chart(steps: Sequence[Step]) -> alt.Chart | None:
    """The tuning loss of each step over its optimiser steps; None when nothing was tuned."""
    rows = [
        {"removal": step.number, "optimiser step": row["step"], "loss": row["loss"]}
        for step in steps
        for row in step.training
    ]
    if not rows:
        return None
    data = pd.DataFrame(rows)
    low, high = data["loss"].min(), data["loss"].max()
    scale = alt.Scale(type="log") if low > 0 and high / low > 20 else alt.Scale(zero=False)
    colour = alt.Color(
        "removal:O",
        scale=alt.Scale(scheme="viridis"),
        legend=alt.Legend(title="step", orient="top", columns=10),
    )
    return (
        alt.Chart(data)
        .mark_line(point=alt.OverlayMarkDef(size=18), strokeWidth=2)
        .encode(
            x=alt.X(
                "optimiser step:Q",
                scale=alt.Scale(nice=False),
                axis=alt.Axis(tickMinStep=1, grid=False),
            ),
            y=alt.Y("loss:Q", scale=scale),
            color=colour,
            tooltip=["removal", "optimiser step", alt.Tooltip("loss", format=".5g")],
        )
    )


def _block_axis() -> alt.X:
    return alt.X(
        "block:O",
        title="block",
        axis=alt.Axis(labelAngle=0, labelOverlap="parity", labelSeparation=4, ticks=False),
    )


def _top_legend() -> alt.Legend:
    return alt.Legend(title=None, orient="top", columns=2, symbolType="square")
