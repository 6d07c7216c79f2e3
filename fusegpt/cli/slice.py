"""``fusegpt slice``: cut hidden sizes, or share weights among blocks, of a whole model at once."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from fusegpt.cli.options import (
    JsonObject,
    device_option,
    dtype_option,
    input_file,
    input_path,
    output_path,
    recipe_written_out,
    settings_options,
    sparsity_option,
    weights_option,
)
from fusegpt.config import Weights


@click.command("slice")
@click.option("--model", required=True, type=input_path, help="Directory of a model.")
@click.option("--recipe", help="Name or file of a recipe with a width method.")
@settings_options("Settings laid over the recipe's", "width.round_interval=16")
@dtype_option
@click.option("--recipe-settings", type=JsonObject(), help="Or: a whole recipe, with its name.")
@sparsity_option("Fraction of the hidden size, or of the blocks, to save, in [0, 1).")
@click.option(
    "--calibration",
    required=True,
    type=input_file,
    help="Windows that the method reads, and is tuned on.",
)
@click.option("--output", required=True, type=output_path, help="Directory of the checkpoint.")
@weights_option
@device_option
def slice_widths(
    model: Path,
    recipe: str | None,
    settings: dict[str, Any],
    dtype: str | None,
    recipe_settings: dict[str, Any] | None,
    sparsity: Decimal,
    calibration: Path,
    output: Path,
    weights: Weights,
    device: str,
) -> None:
    """Write the checkpoint of a width method, which has no steps.

    slicegpt cuts hidden states to their principal components; flexigpt and foldgpt let blocks
    compute with the weights of others. Transformers loads the first after
    `import fusegpt.slicegpt.modeling`, the others after `import fusegpt.sharing.modeling`.
    """
    from fusegpt.pruning.recipe import load_recipe

    over = settings if dtype is None else {**settings, "dtype": dtype}
    if recipe is not None and recipe_settings is None:
        chosen = load_recipe(recipe, own=over)
    elif recipe_settings is not None and recipe is None:
        chosen = recipe_written_out(recipe_settings, over)
    else:
        raise click.UsageError("Give one of '--recipe' and '--recipe-settings'.")

    from fusegpt.pruning.slicing import slice_model

    place: dict[str, Any] = {"device": device, "weights": weights}
    slice_model(model, chosen.that_slices(), sparsity, calibration, output, **place)
