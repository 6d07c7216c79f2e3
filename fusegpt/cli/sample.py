"""`fusegpt sample`: cut seeded windows of token ids out of a corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fusegpt.cli.options import Entries, input_path, output_path

__all__ = ["sample"]

at_least_one = click.IntRange(min=1, max=100_000_000)


class CorpusOption(click.ParamType):  # type: ignore[type-arg]
    """A name, a file, or a JSON list of corpora with their shares."""

    name = "corpus"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse a list; names and files stay as they are."""
        from fusegpt.yaml_files import read_json_text

        if not isinstance(value, str) or not value.startswith("["):
            return value
        try:
            return read_json_text(value)
        except (ValueError, RecursionError):
            self.fail(f"must be a name, a file, or a JSON list, got {value[:200]!r}", param, ctx)


@click.command()
@click.option("--model", type=input_path, required=True, help="A model's directory: its tokenizer.")
@click.option(
    "--corpus",
    type=CorpusOption(),
    required=True,
    help="A corpus by name, or a parquet, jsonl or txt file; or several:"
    ' \'[{"name": "wikitext2", "share": 0.5}, {"name": "chats.jsonl", "share": 0.5}]\'.',
)
@click.option("--split", default="train", show_default=True, help="The corpus's split.")
@click.option("--sequences", type=at_least_one, help="How many windows, at random places.")
@click.option("--rows", type=at_least_one, help="Or: rows to draw, cut into all windows they fill.")
@click.option("--length", type=at_least_one, required=True, help="Tokens per window.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draw.")
@click.option(
    "--cut",
    type=click.Choice(["joined", "documents"]),
    default="joined",
    show_default=True,
    help="From the documents behind each other, or one document a window, padded.",
)
@click.option(
    "--bos",
    type=click.Choice(["stream", "window", "none"]),
    help="Where BOS stands; by default before every window for Gemma, else once.",
)
@click.option(
    "--predict",
    type=click.Choice(["all", "answers"]),
    default="all",
    show_default=True,
    help="Whose prediction counts in losses of the next token: of conversations, the answers'.",
)
@click.option(
    "--corpora",
    type=Entries("corpora"),
    default="{}",
    help='The config\'s corpora: \'{"wikitext2": {"splits": {"train": FILE}}}\'.',
)
@click.option("--output", type=output_path, required=True, help="The parquet file to write.")
def sample(model: Path, corpus: Any, output: Path, **asked: Any) -> None:
    """Write seeded random windows of a corpus.

    For calibration, fine-tuning or measuring.

    Conversations (messages, prompt and completion, ShareGPT, Alpaca) go through the model's chat
    template. A parquet file with a column ``image`` gives windows of image, question and answer.
    """
    from fusegpt.data.sampling import sample as cut_windows

    cut_windows(model, corpus, output=output, **asked)
