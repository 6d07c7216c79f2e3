"""``fusegpt merge``: the model of a step as a plain checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from fusegpt.cli.options import input_file, output_path


@click.command()
@click.option("--model", required=True, type=input_file, help="Manifest of the step.")
@click.option("--recipe", required=True, type=input_file, help="The run's recipe.json.")
@click.option("--output", required=True, type=output_path, help="Directory of the checkpoint.")
def merge(model: Path, recipe: Path, output: Path) -> None:
    """Write a step's model as a directory that plain transformers loads."""
    from fusegpt.pruning.publish import publish
    from fusegpt.pruning.recipe import Recipe
    from fusegpt.pruning.trajectory import history, load_step

    chosen = Recipe.read(recipe)
    publish(load_step(model, chosen, "cpu"), chosen, history(model), output)
