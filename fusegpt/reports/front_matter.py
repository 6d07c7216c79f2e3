"""The front matter of a model card, which the hub reads: licence, base model, tags, results."""

from __future__ import annotations

import re
from collections.abc import Sequence

from huggingface_hub import EvalResult, ModelCardData

from fusegpt.results.models import Checkpoint, Row, Slice

__all__ = ["front_matter"]

TASK = "text-generation"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_SOURCE = re.compile(r"hub:([\w.-]+/[\w.-]+)@(\w+)/.*")


def front_matter(record: Checkpoint, rows: Sequence[Row]) -> str:
    """Write the YAML block between its lines of dashes.

    Args:
        record: What ``fusegpt.json`` says of the checkpoint.
        rows: Measured results, which the hub shows beside the card.
    """
    kind = "width-pruning" if isinstance(record, Slice) else "depth-pruning"
    tags = dict.fromkeys(("fusegpt", kind, "pruned", *filter(None, [record.recipe_name])))
    base = record.base_model or ""
    names = filter(None, [record.base_name, record.recipe_name])
    data = ModelCardData(
        license=record.licence.lower() if record.licence else None,
        library_name="transformers",
        pipeline_tag=TASK,
        tags=list(tags),
        base_model=base if HUB_ID.fullmatch(base) else None,
        model_name=", ".join(names) if rows else None,
        eval_results=[_result(row) for row in rows] or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _result(row: Row) -> EvalResult:
    """A row as the hub's own type; what is not on record is left out."""
    source = HUB_SOURCE.fullmatch(str(row.protocol.get("source", "")))
    return EvalResult(
        task_type=TASK,
        dataset_type=source[1] if source else row.task,
        dataset_name=row.task,
        dataset_config=row.protocol.get("variant"),
        dataset_split=row.protocol.get("split"),
        dataset_revision=source[2] if source else None,
        metric_type=row.metric,
        metric_value=float(f"{row.value:.6g}"),
        metric_name=row.metric.replace("_", " "),
        metric_args={k: value for k, value in row.protocol.items() if value is not None} or None,
    )
