"""``fusegpt plan``: what experiments will run, what is there, what it costs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fusegpt.cli.options import finite, input_file, output_path


@click.command()
@click.argument("experiments", nargs=-1, required=True, metavar="EXPERIMENT...")
@click.option("--directory", type=output_path, default=".", help="Where results lie; here.")
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
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
def plan(
    experiments: tuple[str, ...],
    directory: Path,
    device: str,
    tflops: float | None,
    snakefile: Path | None,
    as_json: bool,
) -> None:
    """Say what EXPERIMENT... (names or files) will run, from a dry run, and what it costs."""
    from fusegpt.config import builtin_config_dir
    from fusegpt.workflow.experiment import make_plan
    from fusegpt.workflow.files import experiment_files, merged
    from fusegpt.workflow.outlook import outlook
    from fusegpt.workflow.outlook_text import as_text

    config = merged(experiment_files(experiments))
    made = make_plan(config, builtin_config_dir() / "recipes")
    notes = outlook(made, config, directory, device, tflops, snakefile)
    click.echo(json.dumps(notes, indent=1) if as_json else as_text(notes))
