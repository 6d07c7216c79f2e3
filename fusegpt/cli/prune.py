"""``fusegpt prune``: the whole loop in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fusegpt.cli.options import (
    device_option,
    dtype_option,
    input_file,
    input_path,
    output_path,
    settings_options,
)


@click.command()
@click.option("--model", required=True, type=input_path, help="Directory of a model.")
@click.option("--recipe", required=True, help="Name or file of a recipe.")
@settings_options("Settings laid over the recipe's", "recovery.rank=8")
@dtype_option
@click.option("--sparsity", required=True, help="Fraction of units to remove, in [0, 1).")
@click.option("--seed", type=int, help="Of everything that is drawn; 0 unless given.")
@click.option("--calibration", required=True, type=input_file, help="Windows to score on.")
@click.option("--finetune", type=input_file, help="Windows to recover on.")
@click.option("--output", required=True, type=output_path, help="Directory of the checkpoint.")
@device_option
def prune(
    model: Path,
    recipe: str,
    settings: dict[str, Any],
    dtype: str | None,
    sparsity: str,
    seed: int | None,
    calibration: Path,
    finetune: Path | None,
    output: Path,
    device: str,
) -> None:
    """Score, remove, recover, repeat; then write a plain transformers checkpoint."""
    from fusegpt.errors import ArtifactError, DataError
    from fusegpt.pruning.budget import check_sparsity, removals
    from fusegpt.pruning.recipe import load_recipe

    over = settings if dtype is None else {**settings, "dtype": dtype}
    chosen = load_recipe(recipe, over, seed).that_removes()
    check_sparsity(sparsity, "--sparsity")
    if chosen.needs_windows and finetune is None:
        raise DataError(f"recipe {chosen.name!r} trains: give its windows with --finetune")
    if output.exists() and any(output.iterdir()):
        raise ArtifactError(f"{output}: must not exist or be empty; choose another output")

    from fusegpt.data.window_files import read_windows
    from fusegpt.data.windows import read_meta
    from fusegpt.pruning.loop import prune as prune_model
    from fusegpt.pruning.publish import publish
    from fusegpt.pruning.trajectory import load_step

    windows = {"calibration": read_windows(calibration)}
    data = {"calibration": read_meta(calibration)}
    if chosen.needs_windows and finetune is not None:
        windows["finetune"] = read_windows(finetune)
        data["finetune"] = read_meta(finetune)
    loaded = load_step(model, chosen, device)
    units = chosen.num_units(loaded.num_blocks)
    missing = units - len(loaded.units(chosen.granularity))
    count = removals(units, sparsity, "--sparsity") - missing
    steps = prune_model(loaded, chosen, count, windows["calibration"], windows.get("finetune"))
    publish(loaded, chosen, steps, output, data=data)
