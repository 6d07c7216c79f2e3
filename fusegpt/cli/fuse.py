"""``fusegpt fuse``: take out the selected unit and recover; one link of the chain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusegpt.cli.options import (
    compile_option,
    devices_option,
    finite,
    input_file,
    output_path,
    weights_option,
)
from fusegpt.config import Weights

if TYPE_CHECKING:
    from fusegpt.recovery.room import Memory


@click.command()
@click.option("--model", required=True, type=input_file, help="Manifest of the step before.")
@click.option("--recipe", required=True, help="Name or file of a recipe.")
@click.option("--scores", required=True, type=input_file, help="What `fusegpt score` wrote.")
@click.option("--finetune", type=input_file, help="Windows to recover on.")
@click.option("--output", required=True, type=output_path, help="Directory of the step.")
@click.option(
    "--checkpoint-seconds",
    type=click.FloatRange(min=0),
    callback=finite,
    default=60.0,
    show_default=True,
    envvar="FUSEGPT_CHECKPOINT_SECONDS",
    help="Least time between two checkpoints inside the step; 0: after every optimiser step.",
)
@click.option(
    "--memory",
    type=click.Choice(["auto", "spare", "keep"]),
    default="auto",
    show_default=True,
    envvar="FUSEGPT_MEMORY",
    help="Of a tuning: spare keeps hidden states in a file beside the step and computes activations"
    " twice, keep does neither, auto looks at what is free. The result is the same.",
)
@compile_option
@weights_option
@devices_option
def fuse(
    model: Path,
    recipe: str,
    scores: Path,
    finetune: Path | None,
    output: Path,
    checkpoint_seconds: float,
    memory: Memory,
    compiled: bool,
    weights: Weights,
    device: str,
) -> None:
    """Remove the least important unit, recover; write the changes.

    A killed run goes on from its last in-step checkpoint, or its last finished trial, when it is
    started again.
    """
    from fusegpt.pruning.jobs import fuse_model
    from fusegpt.pruning.recipe import read_recipe

    fuse_model(
        *(model, read_recipe(recipe), scores, output),
        finetune=finetune,
        checkpoint_seconds=checkpoint_seconds,
        memory=memory,
        compiled=compiled,
        device=device,
        weights=weights,
    )
