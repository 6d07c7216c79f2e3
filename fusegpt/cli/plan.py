"""``fusegpt plan``: what experiments will run, what is there, what it costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusegpt.cli.options import directory_option, finite, input_file

if TYPE_CHECKING:
    from fusegpt.workflow.plan import Plan


@click.command()
@click.argument("experiments", nargs=-1, required=True, metavar="EXPERIMENT...")
@directory_option
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Whose past seconds count.",
)
@click.option(
    "--tflops",
    type=click.FloatRange(min=0, min_open=True),
    callback=finite,
    help="A rate in TFLOP/s: turns the counted FLOPs into hours.",
)
@click.option(
    "--snakefile",
    type=input_file,
    help="A workflow that imports the project's rules under their names and adds its own.",
)
@click.option(
    "--shards",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many jobs share the calibration windows, as with --set-scatter score=N.",
)
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
def plan(
    experiments: tuple[str, ...],
    directory: Path,
    device: str,
    tflops: float | None,
    snakefile: Path | None,
    shards: int,
    as_json: bool,
) -> None:
    """Say what experiments would run, by name or file, at what cost.

    Counted from a dry run: nothing is run and no model is loaded.
    """
    from fusegpt.config import builtin_config_dir
    from fusegpt.runtime import slow_here
    from fusegpt.workflow.experiment import make_plan
    from fusegpt.workflow.files import experiment_files, merged
    from fusegpt.workflow.outlook import outlook
    from fusegpt.workflow.outlook_text import as_text

    config = merged(experiment_files(experiments))
    made = make_plan(config, builtin_config_dir() / "recipes")
    notes = outlook(made, config, directory, device, tflops, snakefile, shards)
    if as_json:
        click.echo(json.dumps(notes, indent=1))
        return
    click.echo(as_text(notes))
    for dtype in sorted(_dtypes(made)) if device == "cpu" else ():
        if (said := slow_here(dtype, device)) is not None:
            click.echo(said)


def _dtypes(plan: Plan) -> set[str]:
    """Return the types that its recipes and evaluations compute in."""
    asked = {name for names in plan.evaluated.values() for name in names}
    types = {plan.evaluations[name].dtype for name in asked}
    return types | {recipe.dtype for recipe in plan.recipes.values()}
