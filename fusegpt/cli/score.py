"""``fusegpt score``: the importance of every unit still present."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusegpt.artifacts import STAGE_VERSION, provenance, sha256
from fusegpt.cli.options import (
    JsonObject,
    device_option,
    dtype_option,
    input_file,
    input_path,
    output_path,
    settings_options,
)
from fusegpt.results.base import read, write
from fusegpt.results.files import Parent
from fusegpt.results.records import Scores

if TYPE_CHECKING:
    from fusegpt.pruning.recipe import Recipe


@click.command()
@click.option("--model", required=True, type=input_path, help="Model directory or step manifest.")
@click.option("--calibration", type=input_file, help="Windows to score on.")
@click.option("--metric", help="Importance metric, with its settings, in place of a recipe.")
@settings_options("Settings of the metric", "protect_first=2")
@dtype_option
@click.option("--recipe", help="Name or file of a recipe; says metric, settings and dtype.")
@click.option("--recipe-settings", type=JsonObject(), help="The same, written out.")
@click.option(
    "--dense-scores",
    type=input_file,
    help="Of the dense model, made for another recipe that scores it alike: taken as they are.",
)
@click.option("--first-scores", type=input_file, help="Of step 1: a one_shot selection keeps them.")
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Blocks that a contiguous selection takes at once.",
)
@click.option("--output", required=True, type=output_path, help="JSON to write.")
@device_option
def score(
    model: Path,
    calibration: Path | None,
    metric: str | None,
    settings: dict[str, Any],
    dtype: str | None,
    recipe: str | None,
    recipe_settings: dict[str, Any] | None,
    dense_scores: Path | None,
    first_scores: Path | None,
    count: int,
    output: Path,
    device: str,
) -> None:
    """Score every unit; high = keep. Indices are those of the dense model."""
    from fusegpt.pruning.recipe import read_recipe, resolve

    named = [recipe, recipe_settings]
    if any(named) and (metric is not None or settings or dtype is not None):
        raise click.UsageError("--recipe says the metric, its settings and the dtype already.")
    if not any(named) and metric is None:
        raise click.UsageError("Missing option '--metric' (or '--recipe').")
    if recipe is not None:
        chosen = read_recipe(recipe)
    elif recipe_settings is not None:
        content = dict(recipe_settings)
        chosen = resolve(content.pop("name", "by_hand"), content)
    else:
        importance = {"metric": metric, **settings}
        overrides = {} if dtype is None else {"dtype": dtype}
        chosen = resolve(
            "by_hand", {"importance": importance, "recovery": {"method": "none"}, **overrides}
        )
    chosen.that_removes()
    if dense_scores is not None:
        record = _taken(dense_scores, chosen, model, output)
    elif calibration is None:
        raise click.UsageError("Missing option '--calibration' (or '--dense-scores').")
    else:
        record = _scored(model, chosen, calibration, first_scores, count, output, device)
    write(output, record)


def _taken(file: Path, recipe: Recipe, model: Path, output: Path) -> Scores:
    """The record of a run that takes the dense model's scores; its seconds are theirs."""
    from fusegpt.errors import ConfigError

    record = read(file, Scores)
    same = (recipe.metric, recipe.importance.own())
    if (record.metric, record.settings) != same:
        raise ConfigError(f"{file}: must be scores of {same[0]} {same[1]} for {recipe.name!r}")
    return record.plus(
        recipe=recipe.id,
        seed=recipe.seed,
        parent=Parent.of(model, output.parent),
        parents=[Parent.of(file, output.parent)],
    )


def _scored(
    model: Path,
    recipe: Recipe,
    calibration: Path,
    first_scores: Path | None,
    count: int,
    output: Path,
    device: str,
) -> Scores:
    from fusegpt.data.window_files import read_windows
    from fusegpt.errors import ConfigError
    from fusegpt.pruning.step import score_step
    from fusegpt.pruning.trajectory import load_step

    earlier = read(first_scores, Scores) if first_scores else None
    windows = read_windows(calibration)
    loaded = load_step(model, recipe, device)
    once = recipe.selection == "one_shot" and loaded.removed and model.suffix == ".json"
    if once and not earlier:
        raise ConfigError(f"recipe {recipe.name!r} scores once: give step 1's with --first-scores")
    inputs = {"calibration": calibration}
    inputs |= {"first_scores": first_scores} if first_scores else {}
    return score_step(loaded, recipe, windows, earlier, count).plus(
        recipe=recipe.id,
        seed=recipe.seed,
        stage_version=STAGE_VERSION["score"],
        parent=Parent.of(model, output.parent),
        inputs={role: sha256(file) for role, file in inputs.items()},
        provenance=provenance(loaded.device),
    )
