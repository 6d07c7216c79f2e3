"""The report: one HTML file with everything inside, readable without a network."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import vl_convert
from jinja2 import Environment
from markupsafe import Markup, escape

import fusegpt
from fusegpt.artifacts import atomic_path
from fusegpt.reports import tables
from fusegpt.reports.charts import importance_chart, loss_chart, stack_chart
from fusegpt.reports.collect import DENSE
from fusegpt.reports.figures import sparsity_chart
from fusegpt.reports.runs import Step, read_steps

__all__ = ["write_page"]


def write_page(
    output: str | Path,
    csvs: Sequence[Path],
    svgs: Sequence[Path] = (),
    results: str | Path = "results",
) -> None:
    """Write the page.

    Args:
        output: The HTML file.
        csvs: A table per experiment, written by ``fusegpt table``.
        svgs: A figure per experiment in the same order, shown where scripts do not run.
        results: The folder that holds ``runs``.

    Raises:
        ArtifactError: A table, a manifest or a score file is missing or corrupt.
    """
    charts: dict[str, dict[str, Any]] = {}
    experiments = []
    for place, csv in enumerate(csvs):
        frame = tables.read_csv(csv)
        section = _experiment(frame, Path(results), charts)
        section["csv"] = base64.b64encode(csv.read_bytes()).decode()
        section["svg"] = svgs[place].read_text(encoding="utf-8") if svgs else ""
        experiments.append(section)
    template = files("fusegpt.reports").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["breakable"] = _breakable
    page = environment.from_string(template).render(
        experiments=experiments,
        charts=json.dumps(charts).replace("<", "\\u003c"),
        vega=_inside_script(vl_convert.javascript_bundle()),  # type: ignore[call-arg]
        version=fusegpt.__version__,
    )
    with atomic_path(output) as partial:
        partial.write_text(page, encoding="utf-8")


def _breakable(text: str) -> Markup:
    """Let a long name wrap after its underscores."""
    return Markup("_<wbr>").join(escape(part) for part in text.split("_"))


def _inside_script(text: str) -> str:
    """Text that cannot end the ``<script>`` it stands in, and means the same to JavaScript."""
    return re.sub(r"<(?=/script|!--)", r"\\x3c", text, flags=re.IGNORECASE)


def _experiment(
    frame: pd.DataFrame, results: Path, charts: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    models = []
    for model in pd.unique(frame["model"]):
        rows = frame[frame["model"] == model]
        runs = _runs(rows, results)
        num_blocks = int(rows["num_blocks"].iloc[0])
        curves = [
            _add(charts, sparsity_chart(frame, model, label), 300)
            for label in tables.value_labels(rows)
        ]
        stack = {label: steps for label, _, steps in runs}
        height = 46 * len(stack) + 8
        models.append(
            {
                "name": model,
                "table": _table(rows),
                "protocols": tables.protocol_text(rows),
                "curves": curves,
                "stack": _add(charts, stack_chart(stack, num_blocks), height) if stack else None,
                "runs": [_run(label, id_, steps, charts) for label, id_, steps in runs],
            }
        )
    return {"name": str(frame["experiment"].iloc[0]), "models": models}


def _runs(rows: pd.DataFrame, results: Path) -> list[tuple[str, str, list[Step]]]:
    """Label, id and steps of every run of a model; the seed is named when there are several."""
    found = []
    pruned = rows[rows["recipe"] != DENSE]
    several = pruned["seed"].nunique() > 1
    for (recipe, seed, recipe_id), group in pruned.groupby(
        ["recipe", "seed", "recipe_id"], sort=False
    ):
        steps = read_steps(
            results / "runs" / str(group["model"].iloc[0]) / recipe_id, int(group["step"].max())
        )
        if steps:
            found.append((f"{recipe} seed {seed}" if several else recipe, recipe_id, steps))
    return found


def _run(
    label: str, recipe_id: str, steps: Sequence[Step], charts: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    losses = loss_chart(steps)
    return {
        "label": label,
        "id": recipe_id,
        "importance": _add(charts, importance_chart(steps), 26 * len(steps)),
        "losses": _add(charts, losses, 240) if losses is not None else None,
        "steps": [_step_cells(step) for step in steps],
    }


def _step_cells(step: Step) -> list[str]:
    losses = [row["loss"] for row in step.training]
    return [
        str(step.number),
        ", ".join(f"{unit['granularity']} {unit['index']}" for unit in step.units),
        "-" if step.score is None else f"{step.score:.4g}",
        "-" if step.next_score is None else f"{step.next_score:.4g}",
        ", ".join(map(str, step.fused_into or step.group)) or "-",
        f"{losses[0]:.4g} → {losses[-1]:.4g}" if losses else "-",
        tables.format_seconds(step.score_seconds),
        tables.format_seconds(step.fuse_seconds),
        "-" if step.memory_gib is None else f"{step.memory_gib:.2f}",
    ]


def _table(rows: pd.DataFrame) -> Mapping[str, Any]:
    table, labels = tables.summary(rows), tables.value_labels(rows)
    better = rows.groupby(tables.with_labels(rows)["label"])["higher_is_better"].first()
    best = _best(table, labels, better)
    body = []
    for place, row in table.iterrows():
        cells = [
            (tables.format_value(row.get(label), row.get(f"{label} std")), (place, label) in best)
            for label in labels
        ]
        head = [row["recipe"], tables.format_sparsity(row["sparsity"])]
        head += [f"{row['blocks_left']}/{row['num_blocks']}"]
        head += [tables.format_parameters(row["parameters"])]
        seconds = "-" if row["recipe"] == DENSE else tables.format_seconds(row["seconds"])
        new = place > 0 and row["sparsity"] != table["sparsity"].iloc[place - 1]
        body.append({"head": head, "values": cells, "seconds": seconds, "rule": new})
    return {"labels": labels, "body": body}


def _best(
    table: pd.DataFrame, labels: Sequence[str], better: Mapping[str, bool]
) -> set[tuple[int, str]]:
    """The best row of every value at every sparsity that several recipes share."""
    found = set()
    for _, group in table.groupby("sparsity"):
        for label in labels if len(group) > 1 else ():
            values = group[label].dropna()
            if len(values):
                found.add((values.idxmax() if better[label] else values.idxmin(), label))
    return found


def _add(charts: dict[str, dict[str, Any]], chart: alt.TopLevelMixin, height: int) -> str:
    """Keep a chart's specification under a new name; it fills the width it is given."""
    name = f"chart{len(charts)}"
    autosize = alt.AutoSizeParams(type="fit-x", contains="padding")
    whole = chart.properties(width="container", height=height, autosize=autosize)
    charts[name] = whole.to_dict()
    charts[name].pop("config", None)
    return name
