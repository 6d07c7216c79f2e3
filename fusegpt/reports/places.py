"""Where what belongs to a table lies on the disk."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from fusegpt.reports.collect import DENSE

__all__ = ["places"]


def places(frame: pd.DataFrame, csv: Path) -> list[str]:
    """Lines naming the table, the report and the checkpoints that exist beside ``csv``.

    Args:
        frame: The rows of the table.
        csv: ``<results>/tables/<experiment>.csv``; the others are looked for from there.
    """
    results = csv.parent.parent
    lines = [f"table        {csv}"]
    report = results / "report.html"
    if report.is_file():
        lines.append(f"report       {report}")
    for row in frame[frame["recipe"] != DENSE].drop_duplicates(["model", "recipe_id"]).itertuples():
        directory = results / "checkpoints" / row.model / row.recipe_id
        steps = sorted(file.parent.name for file in directory.glob("step-*/fusegpt.json"))
        if steps:
            lines.append(f"checkpoints  {directory}/{{{','.join(steps)}}}")
    return lines
