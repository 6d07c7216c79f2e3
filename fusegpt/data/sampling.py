"""Seeded windows of a corpus for a model, for calibration or fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusegpt.artifacts import provenance
from fusegpt.data.corpora import draw_rows, load_text
from fusegpt.data.pictured import has_pictures, sample_questions
from fusegpt.data.tokens import encode, fingerprint, load_tokenizer
from fusegpt.data.window_files import check_ids, write_windows
from fusegpt.data.windows import at_random, consecutive
from fusegpt.errors import ConfigError
from fusegpt.runtime import Timer, peak_memory_gib

__all__ = ["sample"]


def sample(
    model: str | Path,
    corpus: str,
    *,
    length: int,
    split: str = "train",
    sequences: int | None = None,
    rows: int | None = None,
    seed: int = 0,
    corpora: Mapping[str, Any] | None = None,
    output: str | Path | None = None,
) -> Tensor:
    """Cut seeded windows of token ids out of a corpus.

    Args:
        model: The model's directory: its tokenizer.
        corpus: A corpus by name, or a parquet, jsonl or txt file; a parquet file with a column
            ``image`` gives windows of image, question and answer.
        length: Tokens per window.
        split: Split of the corpus.
        sequences: Number of windows, at random places.
        rows: In place of ``sequences``: rows to draw, cut into all windows they fill.
        seed: Seed of the draws; fewer windows are the first of more.
        corpora: The configuration's ``corpora``.
        output: A parquet file to write them to, for ``read_windows`` and the other verbs.

    Returns:
        ``[sequences, length]`` int64 on the CPU, with their pictures where there are some.

    Raises:
        ConfigError: Neither or both of ``sequences`` and ``rows`` are given.
        DataError: No such corpus or split, or too little text in it.
        ArtifactError: No tokenizer in the directory.
    """
    if (sequences is None) == (rows is None):
        got = "neither" if rows is None else "both"
        raise ConfigError(f"sequences, rows: must be given one of them, got {got}")
    directory, corpora = Path(model), corpora or {}
    tokenizer = load_tokenizer(directory)
    file = Path((corpora.get(corpus) or {}).get("splits", {}).get(split, corpus))
    windows: np.ndarray | Tensor
    with Timer() as timer:
        if has_pictures(file):
            windows, notes = sample_questions(directory, file, sequences or 0, length, seed)
            meta = {"corpus": corpus, "split": split, **notes}
        else:
            source = (corpus, split, corpora)
            windows, meta = _cut(tokenizer, source, sequences, rows, length, seed)
    ids = windows if isinstance(windows, Tensor) else torch.from_numpy(windows.astype(np.int64))
    if (directory / "config.json").is_file():
        check_ids(directory, ids, f"{corpus} for {directory}")
    meta |= {"seed": seed, "tokenizer_sha256": fingerprint(tokenizer), "provenance": provenance()}
    meta |= {"seconds": round(timer.seconds, 3), "memory_gib": round(peak_memory_gib(), 3)}
    if output is not None:
        write_windows(Path(output), windows, meta)
    return ids


def _cut(
    tokenizer: Any,
    source: tuple[str, str, Mapping[str, Any]],
    sequences: int | None,
    rows: int | None,
    length: int,
    seed: int,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Windows of text, and what there is to note of them."""
    text = load_text(*source)
    if rows is not None:
        text = draw_rows(text, rows, seed)
    tokens = encode(tokenizer, text.text)
    if sequences is None:
        windows = consecutive(tokens, length)
    else:
        windows = at_random(tokens, sequences, length, seed)
    return windows, {
        **text.notes(len(tokens)),
        "sequences": len(windows),
        **({} if rows is None else {"rows": rows}),
        "length": length,
    }
