"""``fusegpt push``: a checkpoint to the model hub, with its card."""

from __future__ import annotations

import sys
from pathlib import Path

import click

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("checkpoint", type=FOLDER)
@click.argument("repo_id", metavar="REPO_ID")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option(
    "--revision", show_default="main", help="The branch; made if there is none of that name."
)
def push(checkpoint: Path, repo_id: str, private: bool, revision: str | None) -> None:
    """Check a checkpoint, upload it to a hub, print the address.

    The directory CHECKPOINT goes to REPO_ID, which is ORGANISATION/NAME.

    Everything is checked first: the files by checksum, safetensors only, a card with the licence.
    HF_ENDPOINT says where the hub is, HF_TOKEN who you are.
    """
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    from fusegpt.reports.push import push as upload

    if not sys.stderr.isatty():
        disable_progress_bars()
    click.echo(upload(checkpoint, repo_id, private=private, revision=revision))
