"""Seeded windows of corpora for a model, for calibration or fine-tuning."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fusegpt.data.chats import holds_answers
from fusegpt.data.cutting import Cut, cut_documents, cut_stream, shared_out, together
from fusegpt.data.pictured import has_pictures, sample_questions
from fusegpt.data.tokenised import Source, source_of
from fusegpt.data.tokens import fingerprint, load_tokenizer, usual_bos, window_start
from fusegpt.data.window_files import check_ids, write_windows
from fusegpt.errors import ConfigError
from fusegpt.provenance import provenance
from fusegpt.runtime import Timer, peak_memory_gib

__all__ = ["sample"]

logger = logging.getLogger(__name__)
SHARES = 1e-6
"""How far from 1 the sum of shares may be."""


@dataclass(frozen=True)
class _Asked:
    """How windows are cut, whatever the corpus.

    Attributes:
        bos: ``stream``, ``window`` or ``none``; None: what suits the model.
    """

    length: int
    sequences: int | None
    rows: int | None
    seed: int
    cut: str
    bos: str | None
    predict: str

    def check(self, mixed: bool) -> None:
        """Refuse what contradicts itself.

        Raises:
            ConfigError: The message says what must hold.
        """
        if (self.sequences is None) == (self.rows is None):
            got = "neither" if self.rows is None else "both"
            raise ConfigError(f"sequences, rows: must be given one of them, got {got}")
        if self.rows is not None and (mixed or self.cut == "documents"):
            other = "a mixture of corpora" if mixed else "cut 'documents'"
            raise ConfigError(f"rows: must not be given with {other}; say sequences")


def sample(
    model: str | Path,
    corpus: str | Sequence[Mapping[str, Any]],
    *,
    length: int,
    split: str = "train",
    sequences: int | None = None,
    rows: int | None = None,
    seed: int = 0,
    cut: str = "joined",
    bos: str | None = None,
    predict: str = "all",
    corpora: Mapping[str, Any] | None = None,
    output: str | Path | None = None,
) -> Tensor:
    """Cut seeded windows of token ids out of a corpus, or of several.

    Args:
        model: The model's directory: its tokenizer.
        corpus: A corpus by name, or a file: texts, conversations or token ids in parquet or
            jsonl, or plain text; a parquet file with a column ``image`` gives windows of image,
            question and answer. Or several: ``[{"name": ..., "share": 0.5, "split": ...}, ...]``.
        length: Tokens per window.
        split: Split of the corpus.
        sequences: Number of windows.
        rows: In place of ``sequences``: rows to draw, cut into all windows they fill.
        seed: Seed of the draws; fewer windows are the first of more.
        cut: ``joined``: at random places of all documents behind each other; or ``documents``: one
            document a window, cut off at its length, or padded.
        bos: Where BOS stands: ``stream``, once where the tokenizer adds it; ``window``, at the
            start of every window; ``none``. None: ``window`` for Gemma, else ``stream``.
        predict: Whose prediction counts in losses of the next token: ``all`` tokens', or those of
            the ``answers`` in conversations.
        corpora: The configuration's ``corpora``.
        output: A parquet file to write them to, for ``read_windows`` and the other verbs.

    Returns:
        ``[sequences, length]`` int64 on the CPU, with their pictures or masks where there are some.

    Raises:
        ConfigError: Neither or both of ``sequences`` and ``rows`` are given, shares do not sum to
            1, or there are no answers.
        DataError: No such corpus or split, too little text in it, or a conversation that the
            tokenizer's chat template refuses.
        ArtifactError: No tokenizer in the directory.
    """
    asked = _Asked(length, sequences, rows, seed, cut, bos, predict)
    asked.check(mixed=not isinstance(corpus, str))
    directory, corpora = Path(model), corpora or {}
    tokenizer = load_tokenizer(directory)
    ids: Tensor
    with Timer() as timer:
        if isinstance(corpus, str) and has_pictures(_file(corpus, split, corpora)):
            file = _file(corpus, split, corpora)
            ids, notes = sample_questions(directory, file, sequences or 0, length, seed)
            meta = {"corpus": corpus, "split": split, **notes}
        else:
            parts = [{"name": corpus, "share": 1.0}] if isinstance(corpus, str) else corpus
            found, meta = _mixed(directory, tokenizer, _shares(parts, split), corpora, asked)
            ids = found.windows()
    if (directory / "config.json").is_file():
        named = corpus if isinstance(corpus, str) else meta["corpus"]
        check_ids(directory, ids, f"{named} for {directory}")
    meta |= {"seed": seed, "tokenizer_sha256": fingerprint(tokenizer), "provenance": provenance()}
    if output is not None:
        write_windows(Path(output), ids, meta)
    logger.info(
        "%d windows of %d tokens of %s: %.1f s, peak %.1f GiB",
        *(*ids.shape[:2], meta["corpus"], timer.seconds, peak_memory_gib()),
    )
    drawn = ids.shape[0] * ids.shape[1]
    if cut == "joined" and rows is None and (there := meta.get("tokens", drawn)) < drawn:
        logger.info("windows overlap: %s has %d tokens for %d", meta["corpus"], there, drawn)
    return ids


def _shares(parts: Sequence[Mapping[str, Any]], split: str) -> list[tuple[str, str, float]]:
    """Name, split and share of each corpus.

    Raises:
        ConfigError: A share is 0 or less, or they do not sum to 1.
    """
    try:
        found = [(str(x["name"]), str(x.get("split") or split), float(x["share"])) for x in parts]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"corpus: a mixture must list tables with name and share, got {parts!r:.80}"
        ) from error
    total = sum(share for *_, share in found)
    if not (all(share > 0 for *_, share in found) and abs(total - 1) <= SHARES):
        shares = ", ".join(f"{name} {share:g}" for name, _, share in found)
        raise ConfigError(f"corpus: shares must be above 0 and sum to 1, got {shares or 'none'}")
    return found


def _mixed(
    directory: Path,
    tokenizer: Any,
    parts: Sequence[tuple[str, str, float]],
    corpora: Mapping[str, Any],
    asked: _Asked,
) -> tuple[Cut, dict[str, Any]]:
    """Windows of one corpus or of several, and what there is to note of them."""
    answers = asked.predict == "answers"
    if answers:
        _check_answers([(name, _file(name, split, corpora)) for name, split, _ in parts])
    bos = usual_bos(directory, tokenizer) if asked.bos is None else asked.bos
    opening, shares = window_start(tokenizer, bos), [share for *_, share in parts]
    counts = [asked.sequences] if asked.sequences is None else shared_out(shares, asked.sequences)
    cuts, notes = [], []
    for (name, split, share), count in zip(parts, counts, strict=True):
        if count == 0:
            raise ConfigError(f"corpus: {name} gets none of {asked.sequences} windows by its share")
        source = source_of(tokenizer, name, split, corpora, bos=bos == "stream", answers=answers)
        if asked.rows is not None:
            source = source.drawn(asked.rows, asked.seed)
        cuts.append(_cut(source, asked, count, opening))
        notes.append({**source.notes(cuts[-1].read), "sequences": len(cuts[-1].ids)})
        notes[-1] |= {} if len(parts) == 1 else {"share": share}
    if asked.sequences is not None and len(parts) > 1:
        found, names = together(cuts, shares, asked.sequences), [name for name, *_ in parts]
        about = {"corpus": " + ".join(names), "corpora": notes, "sequences": asked.sequences}
    else:
        (found,), (about,) = cuts, notes
    about |= {} if asked.rows is None else {"rows": asked.rows}
    said = {"cut": asked.cut, "bos": bos, "predict": asked.predict}
    said = {key: value for key, value in said.items() if value not in ("joined", "stream", "all")}
    return found, {**about, "length": asked.length, **said}


def _cut(source: Source, asked: _Asked, count: int | None, opening: Sequence[int]) -> Cut:
    """Windows of one corpus."""
    if asked.cut == "documents":
        assert count is not None, asked
        return cut_documents(source, count, asked.length, asked.seed, opening)
    return cut_stream(source, count, asked.length, asked.seed, opening)


def _file(corpus: str, split: str, corpora: Mapping[str, Any]) -> Path:
    return Path((corpora.get(corpus) or {}).get("splits", {}).get(split, corpus))


def _check_answers(files: Sequence[tuple[str, Path]]) -> None:
    """Refuse corpora none of which has answers."""
    for _, file in files:
        if file.is_file() and holds_answers(file):
            return
    names = ", ".join(name for name, _ in files)
    raise ConfigError(f"predict: 'answers' needs a corpus of conversations, got {names}")
