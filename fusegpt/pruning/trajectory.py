"""The chain of steps on disk: each step's manifest, delta and training rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from fusegpt.artifacts import STAGE_VERSION, file_record, sha256
from fusegpt.config import Weights
from fusegpt.models.checkpoints.adapters import adapter_tensors
from fusegpt.models.checkpoints.load import load
from fusegpt.models.checkpoints.save import write_delta
from fusegpt.models.model import Model
from fusegpt.models.surgery.removal import check_basis
from fusegpt.provenance import provenance
from fusegpt.pruning.recipe import Recipe
from fusegpt.recovery.report import RecoveryReport
from fusegpt.results import layout
from fusegpt.results.base import write
from fusegpt.results.files import Parent
from fusegpt.results.records import Removal, Step
from fusegpt.results.recovered import Training

__all__ = ["fingerprint", "load_step", "write_step"]


def load_step(path: Path, recipe: Recipe, device: str, weights: Weights = "resident") -> Model:
    """Load the model of a step, unfolded fusions included, in the recipe's dtype.

    Args:
        path: A step's manifest, or the directory of a model.
        recipe: The run's.
        device: Where to put the model.
        weights: All in memory, or read block by block.

    Raises:
        ArchitectureError: No block of the model can go.
        ConfigError: The recipe slices widths.
    """
    recipe.that_removes()
    model = load(path, dtype=recipe.dtype, device=device, unfolded=True, weights=weights)
    check_basis(model)
    return model


def write_step(
    directory: Path,
    model: Model,
    recipe: Recipe,
    done: Removal,
    report: RecoveryReport,
    *,
    parent: Path,
    inputs: Mapping[str, Path],
) -> None:
    """Write what a step changed: the delta, the training rows, and last the manifest.

    Args:
        directory: The step's own; its scores may lie there already.
        model: After the step.
        recipe: The run's.
        done: What the step did, from ``fuse_step``.
        report: What the recovery did, from ``fuse_step``.
        parent: Manifest of the step before.
        inputs: Other files that the step read, by role; their checksums are recorded.
    """
    unfolded = [name for name in report.changed if name in model.fused]
    plain = [name for name in report.changed if name not in model.fused]
    unsaved = adapter_tensors(model, unfolded)
    write_delta(model, directory / layout.DELTA, plain, unsaved, recipe.checkpoint_dtype)
    write(directory / layout.TRAINING, Training.model_validate({"rows": report.rows}))
    record = {
        "kind": "step",
        **done.to_json(),
        "recipe": recipe.id,
        "seed": recipe.seed,
        "stage_version": STAGE_VERSION["fuse"],
        "parent": Parent.of(parent, directory),
        "inputs": {role: sha256(file) for role, file in inputs.items()},
        "files": {name: file_record(directory / name) for name in (layout.DELTA, layout.TRAINING)},
        "provenance": provenance(model.device),
    }
    write(directory / layout.MANIFEST, Step.model_validate(record))


def fingerprint(recipe: Recipe, files: Sequence[Path]) -> str:
    """Return one string for everything a step's training depends on.

    Args:
        recipe: The run's.
        files: Manifest of the parent, scores, windows.
    """
    parts = [recipe.to_json(), STAGE_VERSION["fuse"], [sha256(file) for file in files]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
