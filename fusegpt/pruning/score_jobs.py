"""The jobs that score, from files to files: all windows at once, a shard of them, or their sum."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fusegpt.artifacts import STAGE_VERSION, sha256
from fusegpt.config import Weights
from fusegpt.data.window_files import windows_for
from fusegpt.errors import ConfigError
from fusegpt.models.checkpoints.load import streamed_where
from fusegpt.models.model import Model
from fusegpt.provenance import provenance
from fusegpt.pruning.given import check_first_scores
from fusegpt.pruning.recipe import Recipe
from fusegpt.pruning.scoring import add_up, check_shards, score_shard, score_step
from fusegpt.pruning.trajectory import load_step
from fusegpt.recovery import RECOVERIES
from fusegpt.results.base import read, write
from fusegpt.results.files import Parent
from fusegpt.results.records import Scores
from fusegpt.results.shards import PartialScores, Shard, read_parts

__all__ = ["add_scores", "score_model", "score_part", "scores_streamed"]


def score_model(
    path: Path,
    recipe: Recipe,
    calibration: Path,
    output: Path,
    *,
    first_scores: Path | None = None,
    count: int = 1,
    device: str = "cpu",
    weights: Weights = "auto",
) -> Scores:
    """Score the remaining units of a model and write the scores.

    Args:
        path: A step's manifest, or the directory of a model.
        recipe: The run's.
        calibration: Windows file to score on.
        output: The JSON file to write.
        first_scores: The scores of step 1, which a ``one_shot`` selection keeps.
        count: How many blocks a ``contiguous`` selection takes at once.
        device: Where to work.
        weights: All in memory, or read block by block; scores are the same.

    Returns:
        What the file says.

    Raises:
        ArtifactError: A file is missing or corrupt, or the first scores are another run's.
        ConfigError: A ``one_shot`` recipe scores a pruned step anew, or first scores are given for
            something else; or too many units are protected.
    """
    earlier = None if first_scores is None else _earlier(first_scores, recipe, path)
    windows = windows_for(path, calibration)
    model = _load(path, recipe, device, weights)
    later = model.removed and path.suffix == ".json"
    if recipe.selection == "one_shot" and later and earlier is None:
        raise ConfigError(f"recipe {recipe.name!r} scores once: give step 1's with --first-scores")
    inputs = {"calibration": calibration} | ({"first_scores": first_scores} if first_scores else {})
    record = score_step(model, recipe, windows, earlier, count).plus(
        **_about(path, recipe, inputs, output), provenance=provenance(model.device)
    )
    write(output, record)
    return record


def _earlier(first_scores: Path, recipe: Recipe, path: Path) -> Scores:
    """The scores of step 1, for a later step of the run that they begin."""
    if recipe.selection != "one_shot":
        raise ConfigError(
            f"recipe {recipe.name!r} scores every step, by selection {recipe.selection!r}; leave"
            " out --first-scores"
        )
    if path.suffix != ".json":
        raise ConfigError(
            f"{path}: must be the manifest of a later step to take --first-scores, is a model's"
            " directory; leave them out, or name the manifest"
        )
    earlier = read(first_scores, Scores)
    check_first_scores(earlier, first_scores, recipe, path)
    return earlier


def score_part(
    path: Path,
    recipe: Recipe,
    calibration: Path,
    shard: Shard,
    output: Path,
    *,
    count: int = 1,
    device: str = "cpu",
    weights: Weights = "auto",
) -> PartialScores:
    """Score on one part of the windows, and write what it adds to the scores.

    Args:
        path: A step's manifest, or the directory of a model.
        recipe: The run's.
        calibration: Windows file, all of it.
        shard: Which part of the windows.
        output: The JSON file to write.
        count: How many blocks a ``contiguous`` selection takes at once.
        device: Where to work.
        weights: All in memory, or read block by block; scores are the same.

    Raises:
        ArtifactError: A file is missing or corrupt.
        ConfigError: The metric must see all windows in one job, or too many units are protected.
    """
    check_shards(recipe)
    windows = windows_for(path, calibration)
    model = _load(path, recipe, device, weights)
    record = score_shard(model, recipe, windows, shard, count).plus(
        **_about(path, recipe, {"calibration": calibration}, output),
        provenance=provenance(model.device),
    )
    write(output, record)
    return record


def add_scores(
    path: Path, recipe: Recipe, calibration: Path, parts: Sequence[Path], output: Path
) -> Scores:
    """Write the scores that the parts of all shards make; no model is loaded.

    Args:
        path: The step's manifest, or the directory of the model, that was scored.
        recipe: The run's.
        calibration: Windows file that was scored on.
        parts: What ``score_part`` wrote for each shard.
        output: The JSON file to write.

    Returns:
        What the file says: the same, to the last bit, as if one job had seen all windows; seconds
        are those of all parts.

    Raises:
        ArtifactError: A part is missing, damaged, or of other scores.
        NumericsError: A score is infinite.
    """
    about = _about(path, recipe, {"calibration": calibration}, output)
    parent = about["parent"]
    expected = {
        "metric": recipe.metric,
        "recipe": recipe.id,
        "inputs": about["inputs"],
        "parent": None if parent is None else parent.sha256,
    }
    found = read_parts(parts, expected)
    record = add_up(found, recipe).plus(**about, provenance=found[0].provenance)
    write(output, record)
    return record


def scores_streamed(recipe: Recipe) -> bool:
    """Return whether scoring works on weights that are read block by block."""
    asked_before = RECOVERIES[recipe.method].suits  # whether the model suits the recovery
    return recipe.importance.streams and (asked_before is None or recipe.recovery.streams)


def _load(path: Path, recipe: Recipe, device: str, weights: Weights) -> Model:
    """The model that is scored."""
    able = scores_streamed(recipe)
    weights = streamed_where(weights, able, f"scoring with recipe {recipe.name!r}")
    return load_step(path, recipe, device, weights)


def _about(path: Path, recipe: Recipe, inputs: dict[str, Path], output: Path) -> dict[str, Any]:
    """What the record of scores says of what it follows from."""
    return {
        "recipe": recipe.id,
        "seed": recipe.seed,
        "stage_version": STAGE_VERSION["score"],
        "parent": Parent.of(path, output.parent),
        "inputs": {role: sha256(file) for role, file in inputs.items()},
    }
