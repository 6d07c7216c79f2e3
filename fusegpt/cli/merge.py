"""``fusegpt merge``: the model of a step as a plain checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fusegpt.cli.options import device_option, input_file, output_path, weights_option
from fusegpt.config import Weights


@click.command()
@click.option("--model", required=True, type=input_file, help="Manifest of the step.")
@click.option("--recipe", required=True, type=input_file, help="The run's recipe.json.")
@click.option("--finetune", type=input_file, help="Windows, if recovery comes at the end.")
@click.option("--output", required=True, type=output_path, help="Directory of the checkpoint.")
@click.option("--zeroed", is_flag=True, help="Write removed attentions and mlps as zeros.")
@weights_option
@device_option
def merge(
    model: Path,
    recipe: Path,
    finetune: Path | None,
    output: Path,
    zeroed: bool,
    weights: Weights,
    device: str,
) -> None:
    """Write a step's model as a directory that transformers loads.

    A recovery that works after the last removal works here, before the weights are written. Where
    attentions or mlps were removed, `import fusegpt.models.sublayers` makes transformers know the
    checkpoint; --zeroed writes an equal one for programs that know only the base architecture.
    """
    from fusegpt.pruning.jobs import merge_model
    from fusegpt.pruning.recipe import read_recipe

    chosen = read_recipe(recipe)
    place: dict[str, Any] = {"device": device, "weights": weights}
    merge_model(model, chosen, output, finetune=finetune, zeros=zeroed, **place)
