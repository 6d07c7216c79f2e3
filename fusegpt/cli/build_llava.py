"""``fusegpt build-llava``: a small real image-text model from a language model, in minutes."""

from __future__ import annotations

from pathlib import Path

import click

from fusegpt.cli.options import input_path, output_path

at_least_one = click.IntRange(min=1)


@click.command(name="build-llava")
@click.option("--model", required=True, type=input_path, help="Directory of a fetched model.")
@click.option("--tower-steps", type=at_least_one, default=300, show_default=True)
@click.option("--steps", type=at_least_one, default=66, show_default=True)
@click.option("--output", required=True, type=output_path, help="The directory to make.")
def build_llava(model: Path, tower_steps: int, steps: int, output: Path) -> None:
    """Train a vision tower on generated pictures, join it to a language model, teach it to answer.

    The result answers questions about colours, shapes and digits; accuracies stand in source.json.
    """
    from fusegpt.multimodal.build import build

    build(model, output, tower_steps=tower_steps, steps=steps)
