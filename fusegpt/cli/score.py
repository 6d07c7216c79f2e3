"""``fusegpt score``: the importance of every unit still present."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fusegpt.cli.options import JsonObject, device_option, input_file, input_path, output_path


@click.command()
@click.option("--model", required=True, type=input_path, help="Model directory or step manifest.")
@click.option("--calibration", required=True, type=input_file, help="Windows to score on.")
@click.option("--metric", help="Importance metric; with --settings in place of a recipe.")
@click.option("--settings", type=JsonObject(), default="{}", help="Settings of the metric.")
@click.option("--dtype", help="Of the model; bfloat16 unless given.")
@click.option("--recipe", help="Name or file of a recipe; says metric, settings and dtype.")
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
    calibration: Path,
    metric: str | None,
    settings: dict[str, Any],
    dtype: str | None,
    recipe: str | None,
    first_scores: Path | None,
    count: int,
    output: Path,
    device: str,
) -> None:
    """Score every unit; high = keep. Indices are those of the dense model."""
    from fusegpt.artifacts import (
        STAGE_VERSION,
        parent_record,
        provenance,
        read_json,
        sha256,
        write_json,
    )
    from fusegpt.errors import ConfigError
    from fusegpt.pruning.recipe import Recipe, resolve

    if recipe is not None and (metric is not None or settings or dtype is not None):
        raise click.UsageError("--recipe says the metric, its settings and the dtype already.")
    if recipe is None and metric is None:
        raise click.UsageError("Missing option '--metric' (or '--recipe').")
    if recipe is None:
        importance = {"metric": metric, **settings}
        overrides = {} if dtype is None else {"dtype": dtype}
        chosen = resolve(
            "by_hand", {"importance": importance, "recovery": {"method": "none"}, **overrides}
        )
    else:
        chosen = Recipe.read(recipe)
    earlier = read_json(first_scores) if first_scores else None

    from fusegpt.data.windows import read_windows
    from fusegpt.pruning.step import score_step
    from fusegpt.pruning.trajectory import load_step

    windows = read_windows(calibration)
    loaded = load_step(model, chosen, device)
    if (
        chosen.selection == "one_shot"
        and loaded.removed
        and model.suffix == ".json"
        and not earlier
    ):
        raise ConfigError(f"recipe {chosen.name!r} scores once: give step 1's with --first-scores")
    record = score_step(loaded, chosen, windows, earlier, count)
    record |= {
        "recipe": chosen.id,
        "seed": chosen.seed,
        "stage_version": STAGE_VERSION["score"],
        "parent": parent_record(model, output.parent),
        "inputs": {"calibration": sha256(calibration)}
        | ({"first_scores": sha256(first_scores)} if first_scores else {}),
        "provenance": provenance(loaded.device),
    }
    write_json(output, record)
