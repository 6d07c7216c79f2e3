"""``fusegpt prune``: the whole loop in one process."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import click

from fusegpt.cli.options import (
    compile_option,
    device_option,
    dtype_option,
    input_file,
    input_path,
    output_path,
    settings_options,
    sparsity_option,
    weights_option,
)
from fusegpt.config import Reuse, Weights


@click.command()
@click.option("--model", required=True, type=input_path, help="Directory of a model.")
@click.option("--recipe", help="Name or file of a recipe; only --blocks does without.")
@settings_options("Settings laid over the recipe's", "recovery.rank=8")
@dtype_option
@sparsity_option("Fraction of units to remove, in [0, 1).", required=False)
@click.option(
    "--target",
    help="What is wanted in place of a sparsity: parameters=100M, file_size=200MB, speedup=1.3,"
    " blocks=24, memory=6GB,batch=1,context=8192.",
)
@click.option(
    "--blocks",
    metavar="LIST",
    help="Remove these, in this order, in place of a sparsity: 14,16-17 or 'attention 3,mlp 5'; the"
    " recipe says what recovers, without one nothing does.",
)
@click.option(
    "--until",
    metavar="perplexity=MOST",
    help="In place of a sparsity: remove as long as the perplexity on --held-out is at most this.",
)
@click.option("--held-out", type=input_file, help="Windows to measure on for --until.")
@click.option("--seed", type=int, help="Seed of everything that is drawn; 0 unless given.")
@click.option(
    "--calibration",
    type=input_file,
    help="Windows to score on, of fusegpt sample; --blocks needs none.",
)
@click.option("--finetune", type=input_file, help="Windows to recover on, of fusegpt sample.")
@click.option(
    "--finish", type=input_file, help="Windows for the finish; those of --finetune if not set."
)
@click.option("--output", required=True, type=output_path, help="Directory of the checkpoint.")
@click.option(
    "--reuse",
    type=click.Choice(get_args(Reuse)),
    default="auto",
    show_default=True,
    envvar="FUSEGPT_REUSE",
    help="Whether a scoring goes on from hidden states of the one before, which a removal left as"
    " they were; auto: where they fit in a quarter of the free memory. Results are the same.",
)
@compile_option
@weights_option
@device_option
def prune(
    model: Path,
    recipe: str | None,
    settings: dict[str, Any],
    dtype: str | None,
    sparsity: Decimal | None,
    target: str | None,
    blocks: str | None,
    until: str | None,
    held_out: Path | None,
    seed: int | None,
    calibration: Path | None,
    finetune: Path | None,
    finish: Path | None,
    output: Path,
    reuse: Reuse,
    compiled: bool,
    weights: Weights,
    device: str,
) -> None:
    """Remove unit by unit, recover, finish; write a checkpoint."""
    if [sparsity, target, blocks, until].count(None) != 3:
        raise click.UsageError("Give one of '--sparsity', '--target', '--blocks' and '--until'.")
    if held_out is not None and until is None:
        raise click.UsageError("'--held-out' is for '--until'.")
    if recipe is None and blocks is None:
        raise click.UsageError("Missing option '--recipe' (or '--blocks').")
    from fusegpt.pruning.recipe import load_recipe, recipe_of_blocks
    from fusegpt.pruning.target import read_target

    wanted: Any = sparsity if target is None else read_target(target)
    over = settings if dtype is None else {**settings, "dtype": dtype}
    if blocks is not None:
        chosen = recipe_of_blocks(blocks, recipe, over, seed)
    else:
        assert recipe is not None
        chosen = load_recipe(recipe, over, seed).that_removes()

    from fusegpt.pruning.jobs import prune_model
    from fusegpt.pruning.quality import read_bound

    if until is not None:
        wanted = read_bound(until, held_out)
    windows: dict[str, Any] = {"finetune": finetune, "finish": finish}
    place: dict[str, Any] = {"device": device, "weights": weights, "reuse": reuse}
    place["compiled"] = compiled
    prune_model(model, chosen, wanted, calibration, output, **windows, **place)
