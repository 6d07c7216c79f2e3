"""``fusegpt finish``: train a step's model as a whole, and write it as a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fusegpt.cli.options import (
    JsonObject,
    devices_option,
    finite,
    input_file,
    input_path,
    output_path,
    recipe_written_out,
)


@click.command()
@click.option("--model", required=True, type=input_file, help="Manifest of the step.")
@click.option("--recipe", help="Name or file of a recipe with a finish.")
@click.option("--recipe-settings", type=JsonObject(), help="Or: a whole recipe, with its name.")
@click.option("--windows", required=True, type=input_file, help="Windows to train on.")
@click.option("--answers", type=input_path, help="What `fusegpt answers` wrote for these windows.")
@click.option(
    "--teacher", type=input_path, help="Without --answers: the model that the recipe calls teacher."
)
@click.option(
    "--checkpoint-seconds",
    type=click.FloatRange(min=0),
    callback=finite,
    default=300.0,
    show_default=True,
    envvar="FUSEGPT_CHECKPOINT_SECONDS",
    help="Least time between two saved positions; 0: after every optimiser step.",
)
@click.option("--output", required=True, type=output_path, help="Directory of the checkpoint.")
@devices_option
def finish(
    model: Path, recipe: str | None, recipe_settings: dict[str, Any] | None, **given: Any
) -> None:
    """Train a pruned model by its finish, and write a checkpoint.

    Its blocks were chosen by the steps before; none goes here. A killed run goes on from its last
    saved position when it is started again.
    """
    from fusegpt.pruning.recipe import read_recipe

    if recipe is not None and recipe_settings is None:
        chosen = read_recipe(recipe)
    elif recipe_settings is not None and recipe is None:
        chosen = recipe_written_out(recipe_settings)
    else:
        raise click.UsageError("Give one of '--recipe' and '--recipe-settings'.")

    from fusegpt.pruning.finish_job import finish_model

    finish_model(model, chosen, **given)
