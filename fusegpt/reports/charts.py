"""Charts of one run: what was removed, the importance of every block, the losses of tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from fusegpt.reports.figures import labels_above
from fusegpt.results.history import Link
from fusegpt.results.records import Step
from fusegpt.results.recovered import Finish, Recovered, TrainingRow

__all__ = ["fusion_chart", "importance_chart", "loss_chart", "stack_chart"]

REMOVED = "#d55e00"
STATES = {
    "removed": REMOVED,
    "sublayer removed": "#e8935a",
    "received weights": "#009e73",
    "tuned": "#56b4e9",
    "untouched": "#b9bec6",
}
SUBLAYERS = {"attention": "a", "mlp": "m"}


def stack_chart(runs: Mapping[str, Sequence[Link]], num_blocks: int) -> alt.LayerChart:
    """Draw one strip of blocks per run: removed ones with the step, receivers with how often.

    Args:
        runs: Label of the run to its steps.
        num_blocks: Blocks of the dense model.
    """
    data = pd.DataFrame(
        [row for label, links in runs.items() for row in _stack_rows(label, links, num_blocks)]
    )
    base = alt.Chart(data).encode(x=_block_axis(), y=labels_above(list(runs)))
    boxes = base.mark_rect(cornerRadius=2).encode(
        color=_state_colour(data),
        opacity=alt.condition("datum.state == 'removed'", alt.value(1), alt.value(0.75)),
        tooltip=["run", "block", "state", "steps", "fusions"],
    )
    numbers = base.mark_text(fontSize=10, fontWeight="bold", color="#ffffff").encode(text="text:N")
    return alt.layer(boxes, numbers)


def _stack_rows(label: str, links: Sequence[Link], num_blocks: int) -> list[dict[str, Any]]:
    removed: dict[int, list[str]] = {}
    whole = set()
    steps = [link.record for link in links]
    for step in steps:
        for unit in step.gone:
            sublayer = SUBLAYERS.get(unit.kind, "")
            removed.setdefault(unit.index, []).append(f"{step.step}{sublayer}")
            if not sublayer or len(removed[unit.index]) == len(SUBLAYERS):
                whole.add(unit.index)
    rows = []
    for block in range(num_blocks):
        fusions = sum(block in step.fused_into for step in steps)
        if block in removed:
            state = "removed" if block in whole else "sublayer removed"
        elif fusions:
            state = "received weights"
        else:
            state = "tuned" if any(block in step.group for step in steps) else "untouched"
        text = " ".join(removed.get(block, []))
        row = {"run": label, "block": block, "state": state, "fusions": fusions}
        rows.append({**row, "text": text, "steps": text or "-"})
    return rows


def importance_chart(links: Sequence[Link]) -> alt.LayerChart:
    """Draw the importance of every unit before each step; the removed one is ringed."""
    rows = [
        {
            "step": link.record.step,
            "block": scored.index,
            "granularity": scored.granularity,
            "score": scored.score,
            "removed": scored.unit in link.record.gone,
        }
        for link in links
        for scored in link.scores.units
    ]
    data = pd.DataFrame(rows)
    positive = data["score"].gt(0).all() and data["score"].max() > 20 * data["score"].min()
    kind = "log" if positive else "linear"
    base = alt.Chart(data).encode(x=_block_axis(), y=alt.Y("step:O", title="step"))
    if data["granularity"].nunique() > 1:
        base = base.encode(yOffset=alt.YOffset("granularity:N"))
    cells = base.mark_rect().encode(
        color=alt.Color(
            "score:Q",
            scale=alt.Scale(type=kind, scheme="viridis"),
            legend=alt.Legend(
                title=f"{links[0].scores.metric} (high = keep)",
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


def loss_chart(
    links: Sequence[Link], finishes: Mapping[int, Finish] | None = None
) -> alt.Chart | None:
    """Draw each step's loss over its optimiser steps; None when nothing was tuned.

    The name of a curve says where its training was undone.

    Args:
        links: The steps of one run.
        finishes: Recoveries after the last removal, by the number of removals: curves of their
            own.
    """
    named: list[tuple[str, Recovered, Sequence[TrainingRow]]] = [
        *((str(link.record.step), link.record, link.training.rows) for link in links),
        *((f"after {number}", end, end.training) for number, end in (finishes or {}).items()),
    ]
    curves = {f"{name} (undone)" if made.undone else name: rows for name, made, rows in named}
    rows = [
        {"removal": name, "optimiser step": row.step, "loss": row.loss}
        for name, curve in curves.items()
        for row in curve
    ]
    if not rows:
        return None
    data = pd.DataFrame(rows)
    low, high = data["loss"].min(), data["loss"].max()
    scale = alt.Scale(type="log") if low > 0 and high / low > 20 else alt.Scale(zero=False)
    colour = alt.Color(
        "removal:O",
        sort=list(curves),
        scale=alt.Scale(scheme="viridis"),
        legend=alt.Legend(title="step", orient="top", columns=6),
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


def fusion_chart(links: Sequence[Link], num_blocks: int) -> alt.Chart | None:
    """Draw where each removed block went, a row per step; None when nothing was tuned or fused.

    Args:
        links: The steps of one run.
        num_blocks: Blocks of the dense model.
    """
    steps = [link.record for link in links]
    if not any(step.group or step.fused_into for step in steps):
        return None
    gone: set[int] = set()
    rows = []
    for step in steps:
        now = {unit.index for unit in step.gone}
        name = f"{step.step}: {', '.join(map(str, sorted(now)))}"
        sublayers = {unit.index for unit in step.gone if unit.kind in SUBLAYERS}
        for block in range(num_blocks):
            if block not in gone:
                rows.append({"step": name, "block": block, "state": _state(step, block, now)})
        gone |= now - sublayers
    data = pd.DataFrame(rows)
    base = alt.Chart(data).encode(
        x=_block_axis(),
        y=alt.Y("step:N", title="step: removed", sort=None, axis=alt.Axis(ticks=False)),
    )
    return base.mark_rect(stroke="var(--card)").encode(
        color=_state_colour(data),
        opacity=alt.condition("datum.state == 'untouched'", alt.value(0.45), alt.value(0.9)),
        tooltip=["step", "block", "state"],
    )


def _state(step: Step, block: int, removed: set[int]) -> str:
    if block in removed:
        return "removed"
    if block in step.fused_into:
        return "received weights"
    return "tuned" if block in step.group else "untouched"


def _state_colour(data: pd.DataFrame) -> alt.Color:
    """Colours of the states that occur."""
    found = [state for state in STATES if (data["state"] == state).any()]
    scale = alt.Scale(domain=found, range=[STATES[state] for state in found])
    return alt.Color("state:N", scale=scale, legend=_top_legend())


def _block_axis() -> alt.X:
    return alt.X(
        "block:O",
        title="block",
        axis=alt.Axis(labelAngle=0, labelOverlap="parity", labelSeparation=4, ticks=False),
    )


def _top_legend() -> alt.Legend:
    return alt.Legend(title=None, orient="top", columns=3, symbolType="square")
