"""``fusegpt card``: the model card of a checkpoint, with what was measured on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusegpt.cli.options import input_file, output_path

if TYPE_CHECKING:
    from fusegpt.results.models import Evaluation, Row


@click.command()
@click.option("--checkpoint", required=True, type=input_file, help="fusegpt.json of a checkpoint.")
@click.option(
    "--evaluation",
    "evaluations",
    multiple=True,
    type=input_file,
    help="What fusegpt evaluate wrote of the checkpoint.",
)
@click.option(
    "--dense", multiple=True, type=input_file, help="The same of the dense model, shown beside it."
)
@click.option("--output", type=output_path, help="Where a copy of the card goes.")
def card(
    checkpoint: Path, evaluations: tuple[Path, ...], dense: tuple[Path, ...], output: Path | None
) -> None:
    """Write a checkpoint's README.md anew, with what was measured."""
    from fusegpt.artifacts import atomic_path
    from fusegpt.errors import ArtifactError
    from fusegpt.pruning.papers import papers_of
    from fusegpt.reports.card import card as write_card
    from fusegpt.results.base import read
    from fusegpt.results.digests import append_digest
    from fusegpt.results.kinship import is_of_dense, is_of_model
    from fusegpt.results.layout import card_beside
    from fusegpt.results.models import Evaluation, read_checkpoint

    record = read_checkpoint(checkpoint)

    def rows_of(
        files: tuple[Path, ...], fits: Callable[[Evaluation], bool], must: str
    ) -> list[Row]:
        rows: list[Row] = []
        for file in files:
            found = read(file, Evaluation)
            if not fits(found):
                raise ArtifactError(f"{file}: must be an evaluation of {must}")
            rows += found.rows
        return rows

    own = f"{checkpoint}, is of another model"
    rows = rows_of(evaluations, lambda found: is_of_model(found, record, checkpoint), own)
    other = "the dense model, is of another one"
    beside = rows_of(dense, lambda found: is_of_dense(found, record), other)
    text = write_card(record, rows, papers_of(record.recipe, f"{checkpoint}: recipe"), beside)
    for file in (card_beside(checkpoint), output):
        if file is not None:
            with atomic_path(file) as partial:
                partial.write_text(text, encoding="utf-8")
                append_digest(partial)
