"""``fusegpt fuse``: take out the selected unit and recover; one link of the chain."""

from __future__ import annotations

from pathlib import Path

import click

from fusegpt.cli.options import device_option, input_file, output_path


@click.command()
@click.option("--model", required=True, type=input_file, help="Manifest of the step before.")
@click.option("--recipe", required=True, help="Name or file of a recipe.")
@click.option("--scores", required=True, type=input_file, help="What `fusegpt score` wrote.")
@click.option("--finetune", type=input_file, help="Windows to recover on.")
@click.option("--output", required=True, type=output_path, help="Directory of the step.")
@click.option(
    "--checkpoint-seconds",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    envvar="FUSEGPT_CHECKPOINT_SECONDS",
    help="Least time between two checkpoints inside the step; 0: after every optimiser step.",
)
@device_option
def fuse(
    model: Path,
    recipe: str,
    scores: Path,
    finetune: Path | None,
    output: Path,
    checkpoint_seconds: float,
    device: str,
) -> None:
    """Remove the unit with the least importance and recover; write what changed.

    A killed run goes on from its last in-step checkpoint, or its last finished trial, when it is
    started again.
    """
    from fusegpt.pruning.recipe import read_recipe
    from fusegpt.results import layout
    from fusegpt.results.base import read
    from fusegpt.results.records import Scores

    chosen = read_recipe(recipe).that_removes()
    record = read(scores, Scores)

    from fusegpt.data.window_files import read_windows
    from fusegpt.pruning.rerank import forget
    from fusegpt.pruning.step import fuse_step
    from fusegpt.pruning.trajectory import fingerprint, load_step, write_step
    from fusegpt.recovery.resume import Checkpoint

    tunes = chosen.needs_windows and not chosen.recovers_at_end
    windows = read_windows(finetune) if finetune and tunes else None
    checkpoint = Checkpoint(
        output / layout.RESUME,
        fingerprint(chosen, [model, scores, finetune]),
        every_seconds=checkpoint_seconds,
    )
    loaded = load_step(model, chosen, device)
    done, report = fuse_step(loaded, chosen, record, windows, checkpoint=checkpoint)
    inputs = {"scores": scores, "finetune": finetune if tunes else None}
    write_step(output, loaded, chosen, done, report, parent=model, inputs=inputs)
    checkpoint.remove()
    forget(checkpoint)
