"""The chain of steps on disk: each step's manifest, delta and training rows, and the way back."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusegpt.artifacts import (
    STAGE_VERSION,
    file_record,
    provenance,
    read_json,
    sha256,
    write_json,
)
from fusegpt.models.checkpoints.adapters import adapter_tensors
from fusegpt.models.checkpoints.load import load
from fusegpt.models.checkpoints.save import write_delta
from fusegpt.models.model import Model
from fusegpt.models.surgery.removal import check_basis
from fusegpt.pruning.recipe import Recipe
from fusegpt.recovery.report import RecoveryReport
from fusegpt.units import Unit

__all__ = ["fingerprint", "fused_map", "history", "load_step", "write_step"]


def load_step(path: Path, recipe: Recipe, device: str) -> Model:
    """Load the model of a step, unfolded fusions included, in the recipe's dtype.

    Args:
        path: A step's manifest, or the directory of a model.
        recipe: Of the run.
        device: Where to put the model.

    Raises:
        ArchitectureError: No block of the model can go.
    """
    model = load(path, dtype=recipe.dtype, device=device, unfolded=True)
    check_basis(model)
    return model


def write_step(
    directory: Path,
    model: Model,
    recipe: Recipe,
    record: Mapping[str, Any],
    report: RecoveryReport,
    *,
    parent: Path,
    inputs: Mapping[str, Path | None],
) -> None:
    """Write what a step changed: the delta, the training rows, and last the manifest.

    Args:
        directory: The step's own; ``scores.json`` may lie there already.
        model: After the step.
        recipe: Of the run.
        record: From ``fuse_step``.
        report: From ``fuse_step``.
        parent: Manifest of the step before.
        inputs: Other files that the step read, by role; their checksums are recorded.
    """
    unfolded = [name for name in report.changed if name in model.fused]
    plain = [name for name in report.changed if name not in model.fused]
    write_delta(model, directory / "delta.safetensors", plain, adapter_tensors(model, unfolded))
    write_json(directory / "training.json", {"rows": report.rows})
    written = ("delta.safetensors", "training.json")
    manifest = {
        "kind": "step",
        **record,
        "recipe": recipe.id,
        "seed": recipe.seed,
        "stage_version": STAGE_VERSION["fuse"],
        "parent": {"path": _relative(parent, directory), "sha256": sha256(parent)},
        "inputs": {role: sha256(file) for role, file in inputs.items() if file is not None},
        "files": {name: file_record(directory / name) for name in written},
        "provenance": provenance(model.device),
    }
    write_json(directory / "manifest.json", manifest)


def history(manifest: Path) -> list[dict[str, Any]]:
    """Return the manifests of all steps up to this one, the first step first."""
    found: list[dict[str, Any]] = []
    notes = read_json(manifest)
    while notes["kind"] == "step":
        found.append(notes)
        manifest = manifest.parent / notes["parent"]["path"]
        notes = read_json(manifest)
    return found[::-1]


def fused_map(steps: Sequence[Mapping[str, Any]]) -> dict[int | str, list[int]]:
    """Return which removed units each remaining unit received, in order; dense indices.

    Keys are a block's index, or ``attention 5``; attentions receive attentions, mlps mlps.

    Args:
        steps: Records of the steps, in order.
    """
    received: dict[Unit, list[int]] = {}
    for step in steps:
        unit = Unit.from_json(step["unit"])
        for index in step["fused_into"]:
            received.setdefault(Unit(unit.kind, index), []).append(unit.index)
        received.pop(unit, None)
    return {
        unit.index if unit.kind == "block" else str(unit): donors
        for unit, donors in sorted(received.items())
    }


def fingerprint(recipe: Recipe, files: Sequence[Path | None]) -> str:
    """Return one string for everything a step's training depends on.

    Args:
        recipe: Its settings.
        files: Manifest of the parent, scores, windows.
    """
    parts = [recipe.to_json(), STAGE_VERSION["fuse"], [sha256(file) for file in files if file]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _relative(path: Path, start: Path) -> str:
    return Path(os.path.relpath(path.resolve(), start.resolve())).as_posix()
