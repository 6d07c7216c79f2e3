"""`fusegpt sample`: cut seeded windows of token ids out of a corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fusegpt.cli.options import JsonObject, input_path, output_path

__all__ = ["sample"]

at_least_one = click.IntRange(min=1, max=100_000_000)


@click.command()
@click.option("--model", type=input_path, required=True, help="A model's directory: its tokenizer.")
@click.option("--corpus", required=True, help="A corpus by name, or a parquet, jsonl or txt file.")
@click.option("--split", default="train", show_default=True)
@click.option("--sequences", type=at_least_one, help="How many windows, at random places.")
@click.option("--rows", type=at_least_one, help="Or: rows to draw, cut into all windows they fill.")
@click.option("--length", type=at_least_one, required=True, help="Tokens per window.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--corpora",
    type=JsonObject(),
    default="{}",
    help='The config\'s corpora: \'{"wikitext2": {"splits": {"train": FILE}}}\'.',
)
@click.option("--output", type=output_path, required=True, help="The parquet file to write.")
def sample(model: Path, corpus: str, output: Path, **asked: Any) -> None:
    """Write seeded random windows of a corpus, for calibration or fine-tuning.

    A parquet file with a column ``image`` gives windows of image, question and answer.
    """
    from fusegpt.data.sampling import sample as cut

    cut(model, corpus, output=output, **asked)
