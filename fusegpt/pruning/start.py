"""The beginning of a run on disk: step 000, the recipe, scores that it shares. No torch."""

from __future__ import annotations

from pathlib import Path

from fusegpt.artifacts import STAGE_VERSION, write_json
from fusegpt.errors import ConfigError
from fusegpt.provenance import provenance
from fusegpt.pruning.given import check_scores
from fusegpt.pruning.recipe import Recipe
from fusegpt.results import layout
from fusegpt.results.base import read, write
from fusegpt.results.files import Parent, Source
from fusegpt.results.records import Scores, Start

__all__ = ["take_scores", "write_start"]


def write_start(
    manifest: Path,
    source: Path,
    recipe: Recipe,
    *,
    num_blocks: int | None = None,
    recipe_file: Path | None = None,
) -> Start:
    """Begin a run: write down the dense model, which all steps go back to, and the recipe.

    Args:
        manifest: Where the manifest of step 000 goes, written last.
        source: ``source.json`` of the dense model.
        recipe: The run's.
        num_blocks: How many blocks the configuration says the model has; None: not checked.
        recipe_file: Where the whole recipe goes; None: beside the steps.

    Returns:
        What the manifest says: nothing is removed.

    Raises:
        ArtifactError: ``source`` is no record of a fetched model.
        ConfigError: The model has another number of blocks.
    """
    dense = read(source, Source)
    if num_blocks not in (None, dense.num_blocks):
        raise ConfigError(
            f"models: num_blocks: must be {dense.num_blocks}, as {source} says, got {num_blocks}"
        )
    record = Start.model_validate(
        {
            "kind": "start",
            "step": 0,
            "removed": [],
            "kept": list(range(dense.num_blocks)),
            "num_blocks": dense.num_blocks,
            "parameters": dense.parameters,
            "recipe": recipe.id,
            "seed": recipe.seed,
            "stage_version": STAGE_VERSION["start"],
            "parent": Parent.of(source, manifest.parent),
            "provenance": provenance(),
        }
    )
    write_json(recipe_file or manifest.parent.parent / layout.RECIPE, recipe.to_json())
    write(manifest, record)
    return record


def take_scores(scores: Path, recipe: Recipe, model: Path, output: Path) -> Scores:
    """Write a run's first scores, taken from those of the dense model that another recipe made.

    Args:
        scores: Scores of the dense model by the same metric with the same settings.
        recipe: The run's.
        model: Manifest of step 000.
        output: The JSON file to write.

    Returns:
        What the file says; seconds and memory are those of ``scores``.

    Raises:
        ArtifactError: ``scores`` is no readable record, or of another model, metric or settings.
    """
    record = read(scores, Scores)
    check_scores(record.plus(recipe=None), scores, recipe, model)
    taken = record.plus(
        recipe=recipe.id,
        seed=recipe.seed,
        parent=Parent.of(model, output.parent),
        parents=[Parent.of(scores, output.parent)],
    )
    write(output, taken)
    return taken
