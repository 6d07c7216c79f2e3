"""``fusegpt info``: what was removed, what was fused into what, by which recipe."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fusegpt.cli.options import input_path


@click.command()
@click.argument("directory", type=input_path)
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
def info(directory: Path, as_json: bool) -> None:
    """Describe a checkpoint, a step or a fetched model. Indices are those of the dense model."""
    from fusegpt.errors import printable_lines
    from fusegpt.workflow.describe import as_text, describe

    about = describe(directory)
    click.echo(
        json.dumps(about.to_json(), indent=1) if as_json else printable_lines(as_text(about))
    )
