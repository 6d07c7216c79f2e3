"""The front matter of a model card, which the hub reads: licence, base model, tags, results."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

__all__ = ["front_matter"]

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_SOURCE = re.compile(r"hub:([\w.-]+/[\w.-]+)@(\w+)/.*")


def front_matter(info: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the YAML block between its lines of dashes.

    Args:
        info: Facts about the checkpoint, as for `fusegpt.reports.card.card`.
        rows: Measured results, which the hub shows beside the card.
    """
    sliced = info.get("kind") == "slice"
    task = info.get("pipeline_tag", "text-generation")
    base = str(info.get("base_model", ""))
    data = ModelCardData(
        license=str(info["licence"]).lower() if info.get("licence") else None,
        library_name="transformers",
        pipeline_tag=task,
        tags=["fusegpt", "slicegpt" if sliced else "depth-pruning", "pruned"],
        base_model=base if HUB_ID.fullmatch(base) else None,
        model_name=_name(info) if rows else None,
        eval_results=[_result(task, row) for row in rows] or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _name(info: Mapping[str, Any]) -> str:
    """What the results are those of: the base model and the recipe."""
    base = str(info.get("base_model", "a language model")).rstrip("/").split("/")[-1]
    recipe = (info.get("recipe") or {}).get("name")
    return f"{base}, {recipe}" if recipe else base


def _result(task: str, row: Mapping[str, Any]) -> EvalResult:
    """A row as the hub's own type; what is not on record is left out."""
    protocol = row.get("protocol") or {}
    source = HUB_SOURCE.fullmatch(str(protocol.get("source", "")))
    return EvalResult(
        task_type=task,
        dataset_type=source[1] if source else str(row["task"]),
        dataset_name=str(row["task"]),
        dataset_config=protocol.get("variant"),
        dataset_split=protocol.get("split"),
        dataset_revision=source[2] if source else None,
        metric_type=str(row["metric"]),
        metric_value=float(f"{row['value']:.6g}"),
        metric_name=str(row["metric"]).replace("_", " "),
        metric_args={key: value for key, value in protocol.items() if value is not None} or None,
    )
