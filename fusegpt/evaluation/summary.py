"""Results of tasks to rows: one per task and metric, one per group, and the mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusegpt.evaluation.items import fingerprint, pack, unpack

__all__ = ["Summary", "paper_metric"]


def paper_metric(metrics: Sequence[str]) -> str:
    """What this literature reports of a task: acc_norm where the task has it, else the first."""
    return next((name for name in ("acc_norm", "acc") if name in metrics), metrics[0])


@dataclass(frozen=True)
class Summary:
    """How the results of a set of tasks become rows.

    Attributes:
        members: Name as the user gave it to the tasks of lm-eval below it.
        groups: Name to the metrics that a group averages: True by items, False by tasks.
        limit: Number of items per task; None: all.
    """

    members: Mapping[str, Sequence[str]]
    groups: Mapping[str, Mapping[str, bool]]
    limit: int | None

    def rows(self, results: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Make the rows.

        Args:
            results: Task of lm-eval to its result.

        Returns:
            Rows with the keys of every evaluation, and stderr and items. A group that averages is
            one row per metric, without its tasks. The mean over the names is the last row when
            there are several; it has no items where a group among them averages by tasks.
        """
        rows: list[dict[str, Any]] = []
        for name, below in self.members.items():
            if self.groups[name]:
                for metric, by_items in self.groups[name].items():
                    rows.append(self._group(name, metric, by_items, [results[x] for x in below]))
            else:
                for leaf in below:
                    rows += self._task(leaf, results[leaf])
        return rows + self._mean(rows)

    def _task(self, leaf: str, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [
            {
                **_frame(leaf, metric, entry["value"], result),
                "unit": _unit(entry["values"]),
                "higher_is_better": entry["higher_is_better"],
                "num_samples": result["num_samples"],
                "stderr": entry["stderr"],
                **_items(entry, result),
            }
            for metric, entry in result["metrics"].items()
        ]

    def _group(
        self, name: str, metric: str, by_items: bool, results: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        entries = [result["metrics"][metric] for result in results]
        values = [unpack(entry["values"]) for entry in entries]
        sizes = [len(part) for part in values]
        joined = np.concatenate(values)
        value = joined.mean() if by_items else np.mean([part.mean() for part in values])
        of = fingerprint(result["items"] for result in results)
        limit = self._any_limit(results)
        protocol = {**results[0]["protocol"], "items": of, "limit": limit, "tasks": len(results)}
        return {
            **_frame(name, metric, float(value), {**results[0], "protocol": protocol}),
            "unit": "fraction",
            "higher_is_better": entries[0]["higher_is_better"],
            "num_samples": len(joined),
            "stderr": _stderr(values, by_items),
            "items": pack(list(joined), of, strata=() if by_items else sizes),
        }

    def _mean(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The mean over tasks of the metric that this literature reports."""
        tasks: dict[str, dict[str, Mapping[str, Any]]] = {}
        for row in rows:
            tasks.setdefault(row["task"], {})[row["metric"]] = row
        chosen = [found[paper_metric(list(found))] for found in tasks.values()]
        if len(chosen) < 2 or not all("items" in row for row in chosen):
            return []
        values = [unpack(row["items"]["values"]) for row in chosen]
        of = fingerprint(row["items"]["of"] for row in chosen)
        kept = ("harness", "shots", "dtype")
        protocol = {key: chosen[0]["protocol"][key] for key in kept}
        protocol["limit"] = self._any_limit(chosen)
        protocol["of"] = ", ".join(f"{row['task']} {row['metric']}" for row in chosen)
        label = _label("mean", protocol["limit"])
        row = {
            "task": label,
            "metric": "accuracy",
            "value": float(np.mean([row["value"] for row in chosen])),
            "unit": "fraction",
            "higher_is_better": True,
            "num_samples": sum(row["num_samples"] for row in chosen),
            "protocol": protocol,
        }
        if any("strata" in found["items"] for found in chosen):  # whose mean is one of means
            return [{**row, "stderr": _stderr_of([found["stderr"] for found in chosen])}]
        items = pack(list(np.concatenate(values)), of, strata=[len(x) for x in values])
        return [{**row, "stderr": _stderr(values, by_items=False), "items": items}]

    def _any_limit(self, of: Sequence[Mapping[str, Any]]) -> int | None:
        limited = any(entry["protocol"].get("limit") for entry in of)
        return self.limit if limited else None


def _frame(name: str, metric: str, value: float, result: Mapping[str, Any]) -> dict[str, Any]:
    protocol = {key: value for key, value in result["protocol"].items() if value is not None}
    label = _label(name, protocol.get("limit"))
    return {"task": label, "metric": metric, "value": value, "protocol": protocol}


def _unit(values: str | None) -> str:
    """A metric whose items are right or wrong is a fraction."""
    return "fraction" if values is not None and set(values) <= set("01 ") else ""


def _label(name: str, limit: int | None) -> str:
    """``piqa[:100]`` for the first hundred items, so that no row hides its limit."""
    return name if limit is None else f"{name}[:{limit}]"


def _items(entry: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    if entry["values"] is None:
        return {}
    packed = {"of": result["items"], "statistic": "mean", "values": entry["values"]}
    return {"items": packed}


def _stderr(values: Sequence[np.ndarray], by_items: bool) -> float | None:
    """Standard error of a mean over tasks: as lm-eval pools them, or of the mean of their means."""
    if any(len(part) < 2 for part in values):
        return None
    if not by_items:
        return math.sqrt(sum(part.var(ddof=1) / len(part) for part in values)) / len(values)
    count = sum(len(part) for part in values)
    squares = sum(((part - part.mean()) ** 2).sum() for part in values)
    return math.sqrt(squares / (count - len(values)) / count)


def _stderr_of(errors: Sequence[float | None]) -> float | None:
    """Standard error of the mean of values that have their own."""
    known = [error for error in errors if error is not None]
    return math.hypot(*known) / len(known) if len(known) == len(errors) else None
