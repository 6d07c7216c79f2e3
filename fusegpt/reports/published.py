"""Values from papers, and how each compares with ours: only like with like, or with a mark."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from fusegpt.errors import ArtifactError
from fusegpt.reports.tables import value_names

__all__ = ["COLUMNS", "beside_ours", "differences", "read_published"]

COLUMNS = (
    "experiment",
    "table",
    "row",
    "model",
    "method",
    "sparsity",
    "metric",
    "value",
    "protocol",
    "note",
    "erratum",
)
"""Columns of a file of published values, one value a line.

``experiment``: the experiment that measures the same, if there is one. ``table`` and ``row``: where
it stands in the paper. ``model``, ``method``: names of the configuration (``llama-2-7b``,
``sleb``). ``metric``: task and metric, ``wikitext2 perplexity``. ``protocol``: a JSON object with
keys of our protocols. ``erratum``: what is wrong in print, where ``value`` is not the printed one.
"""

ALL = "all"
NUMBERS = ("sparsity", "value")


def read_published(files: Iterable[str | Path]) -> pd.DataFrame:
    """Read files of published values.

    Returns:
        ``COLUMNS``; ``protocol`` as a dict, ``source`` the file's name without its ending.

    Raises:
        ArtifactError: A file cannot be read, lacks a column, or has a value that is no number or
            a protocol that is no JSON object; the message names the line.
    """
    frames = [_read(Path(file)) for file in files]
    columns = [*COLUMNS, "source"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _read(file: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(file, dtype="str", keep_default_na=False)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ArtifactError(f"{file}: cannot be read: {str(reason).lower()}") from None
    missing = [column for column in COLUMNS if column not in frame.columns]
    if missing:
        raise ArtifactError(f"{file}: must hold published values, column {missing[0]!r} is missing")
    for column in NUMBERS:
        numbers = pd.to_numeric(frame[column], errors="coerce")
        if numbers.isna().any():
            line = int(numbers.isna().idxmax())
            found = frame[column][line]
            raise ArtifactError(
                f"{file}: line {line + 2}: {column} must be a number, got {found!r}"
            )
        frame[column] = numbers
    frame["protocol"] = [_protocol(file, line, text) for line, text in enumerate(frame["protocol"])]
    return frame[list(COLUMNS)].assign(source=file.stem)


def _protocol(file: Path, line: int, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ArtifactError(
            f"{file}: line {line + 2}: protocol must be a JSON object, got {text!r}"
        )
    return found


def beside_ours(published: pd.DataFrame, frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return each published value with ours of the same model, method, sparsity, task and metric.

    Args:
        published: From ``read_published``.
        frame: Rows of ``collect``, of any number of experiments.

    Returns:
        The published row's fields, and ``ours`` (mean over seeds; None: not measured),
        ``evaluation``, ``measured_by`` (our experiment) and ``differences`` (None: nothing to
        compare). One entry for each of our evaluations that measured it; where experiments give
        the method different settings, of the published row's experiment, else one for each.
    """
    ours = frame.assign(name=value_names(frame)) if len(frame) else frame
    found = []
    for row in published.to_dict("records"):
        groups = _ours(row, ours) if len(ours) else []
        for group in groups:
            first = group.iloc[0]
            marks = differences(row["protocol"], json.loads(first["protocol"]))
            found.append(
                row
                | {"evaluation": str(first["evaluation"]), "measured_by": str(first["experiment"])}
                | {"ours": float(group["value"].mean()), "differences": marks}
            )
        if not groups:
            nothing = dict.fromkeys(("evaluation", "measured_by", "ours", "differences"))
            found.append(row | nothing)
    return found


def _ours(row: Mapping[str, Any], ours: pd.DataFrame) -> list[pd.DataFrame]:
    same = (
        (ours["model"] == row["model"])
        & (ours["recipe"] == row["method"])
        & ((ours["sparsity"] - row["sparsity"]).abs() < 1e-6)
        & (ours["name"] == row["metric"])
    )
    return [
        runs
        for _, rows in ours[same].groupby("evaluation", sort=False)
        for runs in _alike(rows, row["experiment"])
    ]


def _alike(rows: pd.DataFrame, named: str) -> list[pd.DataFrame]:
    """Rows of runs that differ by their seed alone: only in one experiment is a name one recipe."""
    every = {
        str(experiment): runs.drop_duplicates("recipe_id")
        for experiment, runs in rows.groupby("experiment", sort=False)
    }
    if named in every:
        return [every[named]]
    found: list[pd.DataFrame] = []
    for runs in sorted(every.values(), key=len, reverse=True):
        if not any(set(runs["recipe_id"]) <= set(other["recipe_id"]) for other in found):
            found.append(runs)
    return found


def differences(published: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Say what was measured otherwise, as ``length 1024, published 2048``; empty: nothing."""
    marks = []
    for key, value in published.items():
        mine = ours.get(key)
        if value == ALL and key == "windows":
            mine = ALL if _all_windows(ours) else mine
        if mine != value:
            told = "not recorded" if mine is None else _text(mine)
            marks.append(f"{key} {told}, published {_text(value)}")
    return marks


def _all_windows(protocol: Mapping[str, Any]) -> bool:
    """Whether every window of the text was used; the remainder is never one."""
    tokens, length, windows = (protocol.get(key) for key in ("tokens", "length", "windows"))
    return windows is None or bool(tokens and length and windows >= tokens // length)


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value.strip() else json.dumps(value)
