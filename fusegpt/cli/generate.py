"""`fusegpt generate`: let a model write the text that it is pruned or tuned on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fusegpt.cli.options import (
    Entries,
    device_option,
    input_path,
    output_path,
    settings_options,
)

__all__ = ["generate"]


@click.command()
@click.option("--model", type=input_path, required=True, help="A model's directory.")
@settings_options("What texts start from, how many, and how they are drawn", "start=prompts")
@click.option(
    "--corpora",
    type=Entries("corpora"),
    default="{}",
    help='The config\'s corpora: \'{"my_chats": {"splits": {"train": FILE}}}\'.',
)
@click.option("--output", type=output_path, required=True, help="The parquet file to write.")
@device_option
def generate(
    model: Path, settings: dict[str, Any], corpora: dict[str, Any], output: Path, device: str
) -> None:
    """Write texts of a model's own.

    `fusegpt sample` and whatever takes windows read them.

    A run that was killed goes on where it was when it is started again.
    """
    from fusegpt.data.generated import read_generated
    from fusegpt.models.generation import generate as write

    asked = read_generated(settings, "settings")
    write(model, asked, corpora=corpora, output=output, device=device)
