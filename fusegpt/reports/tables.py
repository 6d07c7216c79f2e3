"""The CSV behind every table and figure, and the small table that a terminal shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from fusegpt.artifacts import atomic_path
from fusegpt.errors import ArtifactError
from fusegpt.reports.collect import COLUMNS, refuse_mixed_settings
from fusegpt.reports.text import aligned
from fusegpt.results.point import DENSE
from fusegpt.results.recovered import SPENT

__all__ = [
    "format_bytes",
    "format_flops",
    "format_parameters",
    "format_seconds",
    "format_sparsity",
    "format_value",
    "main_labels",
    "read_csv",
    "summary",
    "text_table",
    "units_text",
    "value_labels",
    "value_names",
    "with_labels",
    "write_csv",
]

TEXT_COLUMNS = (
    "experiment",
    "model",
    "recipe",
    "recipe_id",
    "evaluation",
    "task",
    "metric",
    "granularity",
    "asked",
    "export",
)
WORDS = (*TEXT_COLUMNS, "unit", "note", "protocol", "higher_is_better")
"""All others hold numbers."""
KEY = ["model", "sparsity", "step", "recipe", "export"]
FEW = 2
COST_UNITS = ("tokens/s", "s", "ratio")
"""Units of rows that say what a model costs; the other rows say how good it is."""


def write_csv(path: str | Path, frame: pd.DataFrame) -> None:
    """Write the rows of ``collect``, atomically."""
    with atomic_path(path) as partial:
        frame.to_csv(partial, index=False, lineterminator="\n")


def read_csv(path: str | Path) -> pd.DataFrame:
    """Read what ``write_csv`` wrote.

    Raises:
        ArtifactError: The file is missing, is no such table, is empty, has a word in place of a
            number, or mixes settings.
    """
    try:
        frame = pd.read_csv(path, dtype=dict.fromkeys((*TEXT_COLUMNS, "unit", "note"), "str"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ArtifactError(f"{path}: cannot be read: {str(reason).lower()}") from None
    for column in (
        *SPENT,
        "undone",
        "trainings",
        "file_bytes",
    ):  # tables made before these were recorded
        if column not in frame.columns:
            frame[column] = float("nan")
    if "granularity" not in frame.columns and {"num_blocks", "blocks_left"} <= set(frame.columns):
        blocks = {"num_units": frame["num_blocks"], "units_left": frame["blocks_left"]}
        frame = frame.assign(granularity="block", **blocks)
    for column in ("note", "asked", "export"):
        frame[column] = frame[column].fillna("") if column in frame.columns else ""
    missing = [column for column in COLUMNS if column not in frame.columns]
    if missing:
        raise ArtifactError(f"{path}: must be a table of results, column {missing[0]!r} is missing")
    if frame.empty:
        raise ArtifactError(f"{path}: must have at least one row, got none")
    for column in (name for name in COLUMNS if name not in WORDS):
        if not is_numeric_dtype(frame[column]):
            words = frame[column][pd.to_numeric(frame[column], errors="coerce").isna()].dropna()
            raise ArtifactError(f"{path}: {column} must be a number, got {words.iloc[0]!r:.60}")
    refuse_mixed_settings(frame)
    return frame


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row per model, sparsity and recipe, a column per measured value; means over seeds.

    Returns:
        Columns model, sparsity, step, recipe, export, seeds, asked, num_blocks, blocks_left,
        granularity, num_units, units_left, parameters, file_bytes, seconds, memory_gib, what
        recovery spent, undone, trainings, then ``<evaluation> <metric>`` (with the task when an
        evaluation has several) and ``<...> std`` beside it, which is missing for a single seed.
    """
    order = {recipe: place for place, recipe in enumerate(pd.unique(frame["recipe"]))}
    models = {model: place for place, model in enumerate(pd.unique(frame["model"]))}
    exports = {export: place for place, export in enumerate(pd.unique(frame["export"]))}
    labels = _labels(frame)
    rows: list[dict[str, Any]] = []
    for key, group in frame.groupby(KEY, sort=False):
        first = group.iloc[0]
        runs = group.drop_duplicates("seed")
        row: dict[str, Any] = dict(zip(KEY, key, strict=True))
        sizes = ("asked", "num_blocks", "blocks_left", "granularity", "num_units", "units_left")
        row |= {"seeds": len(runs)} | {name: first[name] for name in sizes}
        alike = runs["parameters"].nunique() == 1  # seeds may remove units of different sizes
        row |= {"parameters": first["parameters"] if alike else runs["parameters"].mean()}
        row |= {"file_bytes": runs["file_bytes"].mean()}
        row |= {"seconds": runs["seconds"].mean(), "memory_gib": runs["memory_gib"].max()}
        row |= {name: runs[name].mean() for name in (*SPENT, "undone", "trainings")}
        for label, values in group.groupby(labels.loc[group.index], sort=False)["value"]:
            row |= {str(label): values.mean(), f"{label} std": values.std()}
        rows.append(row)
    table = pd.DataFrame(rows)
    places = [table["model"].map(models), table["sparsity"], table["recipe"].map(order)]
    places.append(table["export"].map(exports))
    ranks = pd.concat(places, axis=1).apply(tuple, axis=1)
    return table.loc[ranks.sort_values().index].reset_index(drop=True)


def value_labels(frame: pd.DataFrame) -> list[str]:
    """Return the names of the measured values, in the order of the table."""
    return [str(label) for label in pd.unique(_labels(frame))]


def with_labels(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the same rows with a column ``label``: the name of the measured value."""
    return frame.assign(label=_labels(frame))


def value_names(frame: pd.DataFrame) -> pd.Series:
    """Say what each row measured, whatever its evaluation is called: ``wikitext2 perplexity``."""
    return frame["task"] + " " + frame["metric"]


def main_labels(frame: pd.DataFrame) -> list[str]:
    """Return the labels to look at first, in the order of the table.

    An evaluation of one or two values shows them; one with more shows its rows of a task ``mean``,
    or else its first one, which is the whole of its groups; one of speed and sizes shows none.
    """
    rows = with_labels(frame)
    found = []
    for _, group in rows.groupby("evaluation", sort=False):
        labels = list(pd.unique(group["label"]))
        means = list(pd.unique(group[group["task"].str.startswith("mean")]["label"]))
        if len(labels) > FEW:
            costs = group["unit"].isin(COST_UNITS).any()
            labels = means or labels[: 0 if costs else 1]
        found += labels
    return [str(label) for label in found]


def _labels(frame: pd.DataFrame) -> pd.Series:
    tasks = frame.groupby("evaluation")["task"].nunique()
    several = frame["evaluation"].map(tasks) > 1
    place = frame["evaluation"].where(~several, frame["evaluation"] + " " + frame["task"])
    return place + " " + frame["metric"]


def text_table(frame: pd.DataFrame) -> str:
    """Write the summary as aligned text, one block of lines per model."""
    table, labels = summary(frame), value_labels(frame)
    parts = []
    for model, rows in table.groupby("model", sort=False):
        head = ["recipe", "sparsity", "blocks", "parameters", *labels, "seconds"]
        cells = [_cells(row, labels) for _, row in rows.iterrows()]
        if rows["export"].any():
            head[2:2] = ["export", "file size"]
            sizes = rows["file_bytes"].map(format_bytes)
            exported = zip(rows["export"].replace("", "-"), sizes, strict=True)
            cells = [[*c[:2], *more, *c[2:]] for c, more in zip(cells, exported, strict=True)]
        if rows["asked"].any():
            head.insert(2, "asked")
            asked = rows["asked"].replace("", "-")
            cells = [[*c[:2], said, *c[2:]] for c, said in zip(cells, asked, strict=True)]
        if rows["tokens"].max() > 0:
            head += ["trainable parameters", "tokens", "FLOPs"]
            budgets = (_budget(row) for _, row in rows.iterrows())
            cells = [[*line, *spent] for line, spent in zip(cells, budgets, strict=True)]
        if rows["undone"].max() > 0:
            head.append("undone")
            of = rows["trainings"].fillna(rows["step"])
            pairs = zip(rows["undone"], of, strict=True)
            column = ["-" if pd.isna(x) else f"{x:g} of {all_:g}" for x, all_ in pairs]
            cells = [[*line, cell] for line, cell in zip(cells, column, strict=True)]
        if rows["seeds"].max() > 1:
            head.append("seeds")
            cells = [[*line, str(n)] for line, n in zip(cells, rows["seeds"], strict=True)]
        parts.append(f"{model}\n{aligned(head, cells)}")
    return "\n\n".join(parts)


def _cells(row: pd.Series, labels: Sequence[str]) -> list[str]:
    return [
        row["recipe"],
        format_sparsity(row["sparsity"]),
        units_text(row),
        format_parameters(row["parameters"]),
        *(format_value(row.get(label), row.get(f"{label} std")) for label in labels),
        "-" if row["recipe"] == DENSE else format_seconds(row["seconds"]),
    ]


def _budget(row: pd.Series) -> list[str]:
    """What recovery spent: trainable parameters, tokens tuned on, FLOPs."""
    if not row["tokens"] > 0:
        return ["-", "-", "-"]
    counts = [format_parameters(row[name]) for name in ("trainable_parameters", "tokens")]
    return [*counts, format_flops(row["flops"])]


def units_text(row: pd.Series) -> str:
    """Write ``23/30``, with the kind of unit where it is not the block."""
    kind = "" if row["granularity"] == "block" else f" {row['granularity']}"
    return f"{row['units_left']}/{row['num_units']}{kind}"


def format_parameters(number: float) -> str:
    """Write ``134.5M``."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.4g}{letter}"
    return str(int(number))


def format_bytes(number: float) -> str:
    """Write ``105.5 MB``; ``-`` where the files are not there."""
    return "-" if pd.isna(number) else f"{number / 1e6:,.1f} MB"


def format_flops(number: float) -> str:
    """Write ``1.2e+14``; ``-`` where nobody counted."""
    return "-" if pd.isna(number) else f"{number:.2g}"


def format_seconds(seconds: float) -> str:
    """Write whole seconds; a decimal below ten."""
    return f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}"


def format_sparsity(sparsity: float) -> str:
    """Write ``25%``; a decimal only where there is one."""
    return f"{round(sparsity * 100, 1):g}%"


def format_value(value: Any, std: Any = None) -> str:
    """Write four significant digits, and over several seeds the standard deviation beside them."""
    if value is None or pd.isna(value):
        return "-"
    text = f"{value:.2f}" if 1 <= abs(value) < 1e4 else f"{value:.4g}"
    return text if std is None or pd.isna(std) else f"{text} ± {std:.2g}"
