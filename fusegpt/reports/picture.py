"""The measured values of an experiment as one picture."""

from __future__ import annotations

from pathlib import Path

import altair as alt
import pandas as pd

from fusegpt.artifacts import atomic_path
from fusegpt.reports.collect import whole_models
from fusegpt.reports.curves import curve_charts
from fusegpt.reports.frontier import frontier_chart, size_axis
from fusegpt.reports.quality import quality_chart
from fusegpt.reports.tables import main_labels, value_labels
from fusegpt.results.contents import Curves
from fusegpt.results.digests import append_digest

__all__ = ["write_svg"]

WIDTH, HEIGHT = 360, 260


def write_svg(
    path: str | Path, frame: pd.DataFrame, curves: Curves | None = None, gap: str = ""
) -> None:
    """Write the main values of each model, three panels side by side at most, as an SVG.

    Args:
        path: Where the SVG goes.
        frame: Rows of ``collect``; where there are exports, a panel over the size of the files
            follows.
        curves: What the experiment varies; drawn in place of all else where all recipes have
            one sparsity.
        gap: What the table lacks, in words; stands under the name of each model.
    """
    groups = []
    for model in pd.unique(frame["model"]):
        every = frame[frame["model"] == model]
        rows, sizes = whole_models(every), size_axis(every)
        labels = main_labels(rows) or value_labels(rows)
        panels = [
            chart.properties(width=WIDTH, height=HEIGHT)
            for label in labels
            for _, chart in curve_charts(rows, str(model), label, curves or {})
        ]
        drawn = [quality_chart(rows, str(model), label) for label in labels]
        if not panels or not any(quality.strips for quality in drawn):
            sized = [
                each.chart.properties(width=WIDTH, height=each.height(HEIGHT)) for each in drawn
            ]
            panels = sized + panels
        over_size = [frontier_chart(every, label, sizes) for label in labels] if sizes else []
        panels += [x.properties(width=WIDTH, height=HEIGHT) for x in over_size if x is not None]
        said = gap or alt.Undefined
        title = alt.Title(model, subtitle=said, anchor="start", fontSize=14, offset=12)
        groups.append(alt.concat(*panels, columns=3, title=title))
    chart = alt.vconcat(*groups).configure(background="white").configure_view(stroke=None)
    with atomic_path(path) as partial:
        chart.save(str(partial), format="svg")
        append_digest(partial)
