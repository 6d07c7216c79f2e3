"""The report: one HTML file with everything inside, readable without a network."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment

import fusegpt
from fusegpt.artifacts import atomic_path
from fusegpt.reports import library, tables
from fusegpt.reports.collect import whole_models
from fusegpt.reports.grid import published_grid
from fusegpt.reports.plain_svg import plain_svg
from fusegpt.reports.published import beside_ours, read_published
from fusegpt.reports.section import Charts, model_section
from fusegpt.reports.written import curves_of, read_table_record
from fusegpt.results.digests import append_digest

__all__ = ["write_page"]


def write_page(
    output: str | Path,
    csvs: Sequence[Path],
    svgs: Sequence[Path] = (),
    results: str | Path = "results",
    published: Sequence[Path] = (),
) -> None:
    """Write the page.

    Args:
        output: The HTML file.
        csvs: A table per experiment, written by ``fusegpt table``.
        svgs: A figure per experiment in the same order, shown where scripts do not run.
        results: The folder that holds ``runs`` and ``evaluations``.
        published: Files of published values to stand beside ours.

    Raises:
        ArtifactError: A table, a manifest, a score file or a file of published values is missing
            or corrupt.
    """
    papers = read_published(published)
    frames = [tables.read_csv(csv) for csv in csvs]
    charts = Charts()
    experiments = []
    for place, (csv, frame) in enumerate(zip(csvs, frames, strict=True)):
        record = read_table_record(csv)
        curves = curves_of(record, csv)
        models = [
            model_section(frame, str(model), Path(results), papers, charts, curves)
            for model in pd.unique(frame["model"])
        ]
        section: dict[str, Any] = {"name": str(frame["experiment"].iloc[0]), "models": models}
        section["gap"] = record.gap if record else ""
        section["missing"] = record.missing if record else {}
        section["csv"] = base64.b64encode(csv.read_bytes()).decode()
        section["svg"] = plain_svg(svgs[place]) if svgs else ""
        experiments.append(section)
    whole = whole_models(pd.concat(frames, ignore_index=True))
    entries = beside_ours(papers, whole) if len(papers) else []
    page = _render(
        experiments=experiments,
        charts=charts.as_json(),
        published=published_grid("published", entries) if entries else None,
        errata=[row for row in papers.to_dict("records") if row["erratum"]],
    )
    with atomic_path(output) as partial:
        partial.write_text(page, encoding="utf-8")
        append_digest(partial)


def _render(**values: Any) -> str:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_part("page.html.j2")).render(
        **values,
        style=_part("page.css"),
        script=library.inside_script(_part("page.js")),
        chart_library=library.inside_script(library.charts_script()),
        table_library=json.dumps(library.tables_script()).replace("<", "\\u003c"),
        table_style=library.tables_style(),
        version=fusegpt.__version__,
    )


def _part(name: str) -> str:
    """A file beside this one."""
    return files("fusegpt.reports").joinpath(name).read_text(encoding="utf-8")
