"""``fusegpt merge``: the model of a step as a plain checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fusegpt.cli.options import device_option, input_file, output_path


@click.command()
@click.option("--model", required=True, type=input_file, help="Manifest of the step.")
@click.option("--recipe", required=True, type=input_file, help="The run's recipe.json.")
@click.option("--finetune", type=input_file, help="Windows, if recovery comes at the end.")
@click.option("--output", required=True, type=output_path, help="Directory of the checkpoint.")
@click.option("--zeroed", is_flag=True, help="Write removed attentions and mlps as zeros.")
@device_option
def merge(
    model: Path, recipe: Path, finetune: Path | None, output: Path, zeroed: bool, device: str
) -> None:
    """Write a step's model as a directory that transformers loads.

    A recovery that works after the last removal works here, before the weights are written. Where
    attentions or mlps were removed, `import fusegpt.models.sublayers` makes transformers know the
    checkpoint; --zeroed writes an equal one for programs that know only the base architecture.
    """
    from fusegpt.artifacts import sha256
    from fusegpt.data.window_files import read_windows
    from fusegpt.errors import DataError
    from fusegpt.pruning.finish import finish
    from fusegpt.pruning.publish import publish
    from fusegpt.pruning.recipe import read_recipe
    from fusegpt.pruning.trajectory import fingerprint, load_step
    from fusegpt.recovery.resume import Checkpoint
    from fusegpt.results import layout
    from fusegpt.results.files import Parent
    from fusegpt.results.history import read_history
    from fusegpt.results.records import Removal
    from fusegpt.runtime import Timer, peak_memory_gib

    chosen = read_recipe(recipe).that_removes()
    steps: list[Removal] = [*read_history(model).steps]
    made: dict[str, Any] = {"parent": Parent.of(model, output)}
    resume = layout.unfinished(output)
    with Timer() as timer:
        loaded = load_step(model, chosen, device)
        if chosen.recovers_at_end:
            if finetune is None:
                raise DataError(f"recipe {chosen.name!r} trains: give its windows with --finetune")
            checkpoint = Checkpoint(resume, fingerprint(chosen, [model, finetune]))
            record = finish(loaded, chosen, read_windows(finetune), checkpoint=checkpoint)
            steps[-1] = steps[-1].plus(finish=record)
            made["inputs"] = {"finetune": sha256(finetune)}
    made |= {"seconds": round(timer.seconds, 3), "memory_gib": round(peak_memory_gib(), 3)}
    publish(loaded, chosen, steps, output, made=made, zeros=zeroed)
    if chosen.recovers_at_end:
        checkpoint.remove()
