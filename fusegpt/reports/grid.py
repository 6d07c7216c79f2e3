"""Tables of the page: cells with the text to read and the value to sort, filter and export by."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from fusegpt.reports import tables
from fusegpt.results.history import Link
from fusegpt.results.point import DENSE

__all__ = ["Cell", "Column", "Grid", "protocol_grid", "published_grid", "results_grid", "step_grid"]

UNRECORDED = "-"
HIDDEN_KEYS = ("source", "tokenizer_sha256")


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: What is read.
        order: What is sorted and exported; None: the text.
        mark: ``best``, ``differs``, ``same`` or nothing.
    """

    text: str
    order: float | str | None = None
    mark: str = ""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        title: Its head.
        number: Numbers stand at the right.
        choose: Few different values: its filter is a list of them.
        shown: At first; the reader may show hidden columns.
    """

    title: str
    number: bool = True
    choose: bool = False
    shown: bool = True


@dataclass(frozen=True)
class Grid:
    """A table of the page; ``name`` is unique and becomes the name of its CSV."""

    name: str
    columns: list[Column]
    rows: list[list[Cell]] = field(default_factory=list)


def results_grid(name: str, rows: pd.DataFrame) -> Grid:
    """Return one row per recipe and sparsity: sizes, every measured value, time and memory.

    Args:
        name: Name of the table.
        rows: Rows of ``collect`` of one model.
    """
    table, labels = tables.summary(rows), tables.value_labels(rows)
    main = tables.main_labels(rows) or labels
    better = rows.groupby(tables.with_labels(rows)["label"])["higher_is_better"].first()
    best = _best(table, labels, better)
    columns = [Column("recipe", number=False, choose=True), Column("sparsity", choose=True)]
    targets = bool(table["asked"].any())
    columns += [Column("asked", number=False, choose=True)] if targets else []
    columns += [Column("remaining units"), Column("parameters")]
    columns += [Column(label, shown=label in main) for label in labels]
    columns += [Column("seconds"), Column("peak GiB")]
    more = ("trainable parameters", "tokens", "FLOPs", "undone tunings", "seeds")
    columns += [Column(name, shown=False) for name in more]
    body = [
        _result_cells(row, [(label, (place, label) in best) for label in labels], targets)
        for place, row in table.iterrows()
    ]
    return Grid(name, columns, body)


def _result_cells(row: pd.Series, labels: Sequence[tuple[str, bool]], targets: bool) -> list[Cell]:
    dense = row["recipe"] == DENSE
    cells = [
        Cell(row["recipe"]),
        Cell(tables.format_sparsity(row["sparsity"]), row["sparsity"]),
        *([Cell(row["asked"] or "-")] if targets else []),
        Cell(tables.units_text(row), row["units_left"]),
        Cell(tables.format_parameters(row["parameters"]), row["parameters"]),
    ]
    for label, best in labels:
        text = tables.format_value(row.get(label), row.get(f"{label} std"))
        cells.append(Cell(text, _number(row.get(label)), "best" if best else ""))
    seconds = UNRECORDED if dense else tables.format_seconds(row["seconds"])
    cells.append(Cell(seconds, _number(row["seconds"])))
    cells.append(_decimal(row["memory_gib"], 2))
    for name in ("trainable_parameters", "tokens"):
        known = pd.notna(row[name])
        text = tables.format_parameters(row[name]) if known else UNRECORDED
        cells.append(Cell(text, _number(row[name])))
    cells.append(Cell(tables.format_flops(row["flops"]), _number(row["flops"])))
    undone = _number(row["undone"])
    cells.append(Cell(UNRECORDED if undone is None else f"{undone:g}", undone))
    return [*cells, Cell(str(row["seeds"]), int(row["seeds"]))]


def _best(
    table: pd.DataFrame, labels: Sequence[str], better: Mapping[str, bool]
) -> set[tuple[int, str]]:
    """The best rows of every value at every sparsity that several recipes share."""
    found = set()
    for _, group in table.groupby("sparsity"):
        for label in labels if len(group) > 1 else ():
            values = group[label].dropna()
            if values.nunique() > 1:
                top = values.max() if better[label] else values.min()
                found |= {(place, label) for place in values.index[values == top]}
    return found


def step_grid(name: str, links: Sequence[Link]) -> Grid:
    """Return a table with one row per step of a run."""
    columns = [Column("step"), Column("removed", number=False), Column("score"), Column("next")]
    columns += [Column("tuned blocks", number=False), Column("loss before"), Column("loss after")]
    columns += [Column("score s"), Column("recover s"), Column("peak GiB")]
    return Grid(name, columns, [_step_cells(link) for link in links])


def _step_cells(link: Link) -> list[Cell]:
    step, scored = link.record, link.scores.seconds
    losses: list[float | None] = [row.loss for row in link.training.rows]
    losses = losses or [None]
    return [
        Cell(str(step.step), step.step),
        Cell(", ".join(map(str, step.gone)), step.unit.index),
        _significant(step.score),
        _significant(step.next_score),
        Cell(", ".join(map(str, step.fused_into or step.group)) or UNRECORDED),
        _significant(losses[0]),
        _significant(losses[-1], " (undone)" if step.undone else ""),
        Cell(tables.format_seconds(scored), scored),
        Cell(tables.format_seconds(step.seconds), step.seconds),
        _decimal(step.memory_gib, 2),
    ]


def published_grid(name: str, entries: Iterable[Mapping[str, Any]]) -> Grid:
    """Return published values, ours beside them, and whether the protocols are the same.

    Args:
        name: Name of the table.
        entries: What comes from ``published.beside_ours``.
    """
    columns = [Column("model", number=False, choose=True), Column("method", False, choose=True)]
    columns += [Column("sparsity", choose=True), Column("value of", number=False, choose=True)]
    columns += [Column("published"), Column("ours"), Column("difference")]
    columns += [Column("protocol", number=False), Column("where", number=False, choose=True)]
    columns += [Column(name, number=False, shown=False) for name in ("remark", "source")]
    ours_first = sorted(entries, key=lambda entry: entry["ours"] is None)
    return Grid(name, columns, [_published_cells(entry) for entry in ours_first])


def _published_cells(entry: Mapping[str, Any]) -> list[Cell]:
    ours, marks = entry["ours"], entry["differences"]
    gap = ours / entry["value"] - 1 if ours is not None and not marks else None
    remarks = [entry["note"], f"erratum: {entry['erratum']}" if entry["erratum"] else ""]
    remarks += [f"ours: {entry['measured_by']}"] if entry["measured_by"] else []
    if marks is None:
        protocol = Cell("not measured here")
    else:
        protocol = (
            Cell("≠ " + "; ".join(marks), mark="differs") if marks else Cell("=", mark="same")
        )
    return [
        Cell(entry["model"]),
        Cell(entry["method"]),
        Cell(tables.format_sparsity(entry["sparsity"]), entry["sparsity"]),
        Cell(entry["metric"]),
        Cell(f"{entry['value']:g}", entry["value"], "erratum" if entry["erratum"] else ""),
        Cell(tables.format_value(ours), _number(ours)),
        Cell(UNRECORDED if gap is None else f"{gap:+.1%}", _number(gap)),
        protocol,
        Cell(f"{entry['table']}: {entry['row']}"),
        Cell("; ".join(remark for remark in remarks if remark)),
        Cell(entry["source"]),
    ]


def protocol_grid(name: str, frame: pd.DataFrame) -> Grid:
    """Return how each value was measured: one row per evaluation, task and metric."""
    columns = [Column("evaluation", number=False, choose=True), Column("task", number=False)]
    columns += [Column("metric", number=False, choose=True), Column("unit", number=False)]
    columns += [Column("samples"), Column("protocol", number=False)]
    body = []
    keys = ["evaluation", "task", "metric"]
    for key, group in frame.groupby(keys, sort=False):
        row = group.iloc[0]
        cells = [Cell(str(part)) for part in key] + [Cell(str(row["unit"]))]
        cells.append(Cell(str(row["num_samples"]), _number(row["num_samples"])))
        body.append([*cells, Cell(_protocol_text(json.loads(row["protocol"])))])
    return Grid(name, columns, body)


def _protocol_text(protocol: Mapping[str, Any]) -> str:
    parts = [
        f"{key} {value if isinstance(value, str) and value.strip() else json.dumps(value)}"
        for key, value in protocol.items()
        if value is not None and key not in HIDDEN_KEYS
    ]
    return ", ".join(parts)


def _significant(value: float | None, remark: str = "") -> Cell:
    return Cell(UNRECORDED) if value is None else Cell(f"{value:.4g}{remark}", value)


def _decimal(value: float | None, digits: int) -> Cell:
    number = _number(value)
    return Cell(UNRECORDED) if number is None else Cell(f"{number:.{digits}f}", number)


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)
