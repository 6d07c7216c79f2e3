"""``fusegpt start``: step 000 of a run, which is the dense model, and its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fusegpt.cli.options import JsonObject, input_file, output_path, recipe_written_out


@click.command()
@click.option("--model", required=True, type=input_file, help="source.json of a fetched model.")
@click.option(
    "--recipe-settings",
    required=True,
    type=JsonObject(),
    help="The recipe with its name; what is missing gets its default.",
)
@click.option(
    "--num-blocks", type=click.IntRange(min=1), help="How many blocks the model must have."
)
@click.option("--output", required=True, type=output_path, help="The manifest to write.")
@click.option(
    "--recipe-output", type=output_path, help="Where the whole recipe goes; beside the steps."
)
def start(
    model: Path,
    recipe_settings: dict[str, Any],
    num_blocks: int | None,
    output: Path,
    recipe_output: Path | None,
) -> None:
    """Begin a run: write down the dense model and the recipe."""
    from fusegpt.pruning.start import write_start

    recipe = recipe_written_out(recipe_settings).that_removes()
    write_start(output, model, recipe, num_blocks=num_blocks, recipe_file=recipe_output)
