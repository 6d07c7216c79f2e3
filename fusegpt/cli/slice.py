"""``fusegpt slice``: cut every hidden size of a model."""

from __future__ import annotations

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
    settings_options,
)


@click.command("slice")
@click.option("--model", required=True, type=input_path, help="Directory of a model.")
@click.option("--recipe", help="Name or file of a recipe that slices widths.")
@settings_options("Settings laid over the recipe's", "width.round_interval=16")
@dtype_option
@click.option("--recipe-settings", type=JsonObject(), help="Or: a whole recipe, with its name.")
@click.option("--sparsity", required=True, help="Fraction of the hidden size to cut, in [0, 1).")
@click.option("--calibration", required=True, type=input_file, help="Windows to take signals of.")
@click.option("--output", required=True, type=output_path, help="Directory of the checkpoint.")
@device_option
def slice_widths(
    model: Path,
    recipe: str | None,
    settings: dict[str, Any],
    dtype: str | None,
    recipe_settings: dict[str, Any] | None,
    sparsity: str,
    calibration: Path,
    output: Path,
    device: str,
) -> None:
    """Rotate every hidden state to its principal components, cut, and write a checkpoint.

    It loads in plain transformers after `import fusegpt.slicegpt.modeling`.
    """
    from fusegpt.errors import ArtifactError, ConfigError
    from fusegpt.pruning.budget import check_sparsity
    from fusegpt.pruning.recipe import load_recipe, resolve

    if (recipe is None) == (recipe_settings is None):
        raise click.UsageError("Give one of '--recipe' and '--recipe-settings'.")
    if dtype is not None:
        settings = {**settings, "dtype": dtype}
    if recipe_settings is not None:
        if "name" not in recipe_settings:
            raise ConfigError("--recipe-settings: name: is required")
        rest = {key: value for key, value in recipe_settings.items() if key != "name"}
        chosen = resolve(recipe_settings["name"], rest, own=settings)
    else:
        assert recipe is not None
        chosen = load_recipe(recipe, own=settings)
    chosen.that_slices()
    fraction = check_sparsity(sparsity, "--sparsity")
    if output.exists() and any(output.iterdir()):
        raise ArtifactError(f"{output}: must not exist or be empty; choose another output")

    from fusegpt.pruning.slicing import slice_model

    slice_model(model, chosen, fraction, calibration, output, device=device)
