"""From a pruned model to a checkpoint that transformers loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusegpt.artifacts import STAGE_VERSION, provenance, read_json
from fusegpt.models.checkpoints.save import save
from fusegpt.models.model import Model
from fusegpt.pruning.recipe import Recipe
from fusegpt.pruning.trajectory import fused_map
from fusegpt.reports.card import card

__all__ = ["about_base", "publish"]

ABOUT_BASE = ("base_model", "licence", "source", "revision")


def publish(
    model: Model,
    recipe: Recipe,
    steps: Sequence[Mapping[str, Any]],
    output: Path,
    *,
    data: Mapping[str, Any] | None = None,
    made: Mapping[str, Any] | None = None,
    zeros: bool = False,
) -> dict[str, Any]:
    """Write the checkpoint: weights, tokenizer, ``fusegpt.json`` and the model card.

    Args:
        model: Its parameters hold the folded weights already.
        recipe: Of the run.
        steps: Records of all steps, in order.
        output: Directory; must not exist or be empty.
        data: What was known of the windows that were used.
        made: How: parent, seconds, memory_gib.
        zeros: Write removed attentions and mlps as zeros, for programs that know only the base
            architecture.

    Returns:
        The contents of ``fusegpt.json``.

    Raises:
        ArtifactError: The directory is taken, or the disk is full.
        ConfigError: ``zeros``, and no attention or mlp is missing.
    """
    model.fused.clear()
    info: dict[str, Any] = {
        "kind": "checkpoint",
        "num_blocks": model.num_blocks,
        "kept": list(model.kept),
        "removed": [unit.to_json() for unit in model.removed],
        "fused": {str(target): donors for target, donors in fused_map(steps).items()},
        "parameters": model.module.num_parameters(),
        **({"zeroed": True} if zeros else {}),
        **({"needs": "import fusegpt.models.sublayers"} if model.lacking and not zeros else {}),
        "dtype": recipe.dtype,
        "recipe_id": recipe.id,
        "recipe": recipe.to_json(),
        "steps": [_brief(step) for step in steps],
        **({"finish": steps[-1]["finish"]} if steps and "finish" in steps[-1] else {}),
        "data": dict(data or {}),
        "seed": recipe.seed,
        **(made or {}),
        "stage_version": STAGE_VERSION["merge"],
        "provenance": provenance(model.device),
        **about_base(model),
    }
    save(model, output, extra=info, card=card(info, []), zeros=zeros)
    return info


def _brief(step: Mapping[str, Any]) -> dict[str, Any]:
    names = ("unit", "score", "next_score", "group", "fused_into", "first_loss", "last_loss")
    spent = ("trainable_parameters", "tokens", "optimizer_steps", "flops", "seconds", "memory_gib")
    found = {name: step.get(name) for name in ("step", *names, *spent)}
    return found | {name: step[name] for name in ("units", "rerank") if name in step}


def about_base(model: Model) -> dict[str, Any]:
    """Return what the dense model's directory, or a checkpoint of ours, says of its origin."""
    if model.source is None:
        return {}
    files = [model.source / name for name in ("source.json", "fusegpt.json")]
    notes: dict[str, Any] = next((read_json(file) for file in files if file.is_file()), {})
    known = {name: notes[name] for name in ABOUT_BASE if notes.get(name)}
    return {"base_model": model.source.name, **known}
