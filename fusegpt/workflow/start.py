"""The manifest of step 000."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fusegpt.artifacts import STAGE_VERSION, provenance, read_json, sha256
from fusegpt.errors import ArtifactError, ConfigError
from fusegpt.pruning.recipe import Recipe

__all__ = ["start_manifest"]


def start_manifest(
    source: Path, directory: Path, recipe: Recipe, num_blocks: int | None
) -> dict[str, Any]:
    """What step 000 says: nothing is removed, and which dense model all steps go back to.

    Args:
        source: ``source.json`` of the dense model.
        directory: Where the manifest will lie; the path to its parent is relative to it.
        recipe: Of the run.
        num_blocks: What the configuration says the model has; ``None``: not checked.

    Raises:
        ArtifactError: ``source`` is no manifest of a fetched model.
        ConfigError: The model has another number of blocks.
    """
    notes = read_json(source)
    if not isinstance(notes, dict) or not isinstance(notes.get("num_blocks"), int):
        raise ArtifactError(f"{source}: must be the source.json of a fetched model")
    if num_blocks not in (None, notes["num_blocks"]):
        raise ConfigError(
            f"models: num_blocks: must be {notes['num_blocks']}, as {source} says, got {num_blocks}"
        )
    parent = Path(os.path.relpath(source.resolve(), directory.resolve())).as_posix()
    return {
        "kind": "start",
        "step": 0,
        "removed": [],
        "kept": list(range(notes["num_blocks"])),
        "num_blocks": notes["num_blocks"],
        "parameters": notes.get("parameters"),
        "recipe": recipe.id,
        "seed": recipe.seed,
        "stage_version": STAGE_VERSION["start"],
        "parent": {"path": parent, "sha256": sha256(source)},
        "provenance": provenance(),
    }
