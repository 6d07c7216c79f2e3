"""`fusegpt sample`: cut seeded windows of token ids out of a corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fusegpt.cli.options import JsonObject, input_path, output_path

__all__ = ["sample"]

at_least_one = click.IntRange(min=1)


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
def sample(
    model: Path,
    corpus: str,
    split: str,
    sequences: int | None,
    rows: int | None,
    length: int,
    seed: int,
    corpora: dict[str, Any],
    output: Path,
) -> None:
    """Write seeded random windows of a corpus, for calibration or fine-tuning.

    A parquet file with a column ``image`` gives windows of image, question and answer.
    """
    from fusegpt.artifacts import provenance
    from fusegpt.data.tokens import fingerprint, load_tokenizer
    from fusegpt.data.windows import write_windows as write
    from fusegpt.runtime import Timer, peak_memory_gib

    if (sequences is None) == (rows is None):
        raise click.UsageError("Give one of '--sequences' and '--rows'.")
    tokenizer = load_tokenizer(model)
    file = Path((corpora.get(corpus) or {}).get("splits", {}).get(split, corpus))
    windows: Any
    with Timer() as timer:
        if file.suffix == ".parquet" and file.is_file() and _has_pictures(file):
            from fusegpt.data.pictured import sample_questions
            from fusegpt.data.pictured import write_pictured as write  # type: ignore[assignment]

            windows, notes = sample_questions(model, file, sequences or 0, length, seed)
            meta = {"corpus": corpus, "split": split, **notes}
        else:
            windows, meta = _cut(tokenizer, (corpus, split, corpora), sequences, rows, length, seed)
    meta |= {"seed": seed, "tokenizer_sha256": fingerprint(tokenizer), "provenance": provenance()}
    meta |= {"seconds": round(timer.seconds, 3), "memory_gib": round(peak_memory_gib(), 3)}
    write(output, windows, meta)


def _has_pictures(file: Path) -> bool:
    from fusegpt.data.pictured import has_pictures

    return has_pictures(file)


def _cut(
    tokenizer: Any,
    source: tuple[str, str, dict[str, Any]],
    sequences: int | None,
    rows: int | None,
    length: int,
    seed: int,
) -> tuple[Any, dict[str, Any]]:
    """Windows of text, and what there is to note of them."""
    from fusegpt.data.corpora import draw_rows, load_text
    from fusegpt.data.tokens import encode
    from fusegpt.data.windows import consecutive
    from fusegpt.data.windows import sample as cut

    text = load_text(*source)
    if rows is not None:
        text = draw_rows(text, rows, seed)
    tokens = encode(tokenizer, text.text)
    if sequences is None:
        windows = consecutive(tokens, length)
    else:
        windows = cut(tokens, sequences, length, seed)
    return windows, {
        "corpus": text.name,
        "split": text.split,
        "variant": text.variant,
        "source": text.source,
        "documents": text.documents,
        "join": text.join,
        "tokens": len(tokens),
        "sequences": len(windows),
        **({} if rows is None else {"rows": rows}),
        "length": length,
    }
