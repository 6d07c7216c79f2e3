"""From a pruned model to a checkpoint that transformers loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusegpt.artifacts import STAGE_VERSION
from fusegpt.models.checkpoints.save import differences, save
from fusegpt.models.checkpoints.storage import SOURCE, settle
from fusegpt.models.model import Model
from fusegpt.provenance import provenance
from fusegpt.pruning.papers import papers_of
from fusegpt.pruning.recipe import Recipe
from fusegpt.pruning.whole_periods import check_whole
from fusegpt.reports.card import card
from fusegpt.results import layout
from fusegpt.results.history import fused_map
from fusegpt.results.models import BriefStep, Checkpoint, read_record
from fusegpt.results.records import Removal

__all__ = ["about_base", "publish"]

ABOUT_BASE = ("base_model", "licence", "source", "revision")


def publish(
    model: Model,
    recipe: Recipe,
    steps: Sequence[Removal],
    output: Path,
    *,
    data: Mapping[str, Any] | None = None,
    made: Mapping[str, Any] | None = None,
    zeros: bool = False,
) -> Checkpoint:
    """Write the checkpoint: weights, tokenizer, ``fusegpt.json`` and the model card.

    Args:
        model: Its parameters hold the folded weights already, rounded by the steps that changed
            them; one ``checkpoint_dtype`` for all rounds the rest.
        recipe: The run's.
        steps: What all steps did, in order.
        output: Directory; must not exist or be empty.
        data: What was known of the windows that were used.
        made: How: parent, seconds, memory_gib; and the target that was asked for.
        zeros: Write removed attentions and mlps as zeros, for programs that know only the base
            architecture.

    Returns:
        The record of the checkpoint, without the checksums of its files.

    Raises:
        ArtifactError: The directory is taken, or the disk is full.
        ConfigError: ``zeros``, and no attention or mlp is missing; or a pattern that was to be
            kept is broken.
    """
    check_whole(recipe, model)
    model.fused.clear()
    record = Checkpoint.model_validate(
        {
            "kind": "checkpoint",
            "num_blocks": model.num_blocks,
            "kept": list(model.kept),
            "removed": list(model.removed),
            "fused": {str(target): donors for target, donors in fused_map(steps).items()},
            "parameters": model.module.num_parameters(),
            **({"zeroed": True} if zeros else {}),
            **({"needs": "import fusegpt.models.sublayers"} if model.lacking and not zeros else {}),
            **({"differs": differs} if (differs := differences(model)) else {}),
            "dtype": recipe.dtype,
            "recipe_id": recipe.id,
            "recipe": recipe.to_json(),
            "steps": [BriefStep.of(step) for step in steps],
            **({"finish": steps[-1].finish} if steps and steps[-1].finish else {}),
            "data": dict(data or {}),
            "seed": recipe.seed,
            **(made or {}),
            "stage_version": STAGE_VERSION["merge"],
            "provenance": provenance(model.device),
            **about_base(model),
        }
    )
    papers = papers_of(record.recipe, "recipe")
    if recipe.checkpoint_dtype != SOURCE:
        settle(model, recipe.checkpoint_dtype)
    return save(
        model,
        output,
        extra=record.to_json(),
        card=lambda record: card(record, papers=papers),
        to=recipe.checkpoint_dtype,
        zeros=zeros,
    )


def about_base(model: Model) -> dict[str, Any]:
    """Return what the dense model's directory, or a checkpoint of ours, says of its origin."""
    if model.source is None:
        return {}
    known: dict[str, Any] = {}
    if layout.record_in(model.source) is not None:
        record = read_record(model.source)
        known = {name: value for name in ABOUT_BASE if (value := getattr(record, name, None))}
    return {"base_model": model.source.name, **known}
