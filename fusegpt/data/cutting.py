"""Windows of a tokenised corpus: at random places, consecutive, or one document each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fusegpt.data.corpora import by_rank
from fusegpt.data.masked import Masked
from fusegpt.data.tokenised import Source, Tokens
from fusegpt.data.windows import at_random, consecutive, draw
from fusegpt.errors import DataError

__all__ = ["Cut", "cut_documents", "cut_stream", "shared_out", "together"]

PADDING = 0
"""Token behind the last one of a window; nothing looks at it."""


class Cut(NamedTuple):
    """Windows of one corpus.

    Attributes:
        ids: ``[sequences, length]`` int32.
        lengths: Number of tokens of each window.
        answers: ``[sequences, length]`` bool: tokens whose prediction counts; None: all.
        read: Number of tokens that were read for them.
    """

    ids: np.ndarray
    lengths: Sequence[int]
    answers: np.ndarray | None
    read: int

    def windows(self) -> Tensor:
        """Return the windows, with masks where there is something to mask."""
        ids = torch.from_numpy(self.ids.astype(np.int64))
        if self.answers is None and min(self.lengths) == ids.shape[1]:
            return ids
        answers = None if self.answers is None else torch.from_numpy(self.answers)
        return Masked.of(ids, self.lengths, answers)


def cut_stream(
    source: Source, sequences: int | None, length: int, seed: int, opening: Sequence[int] = ()
) -> Cut:
    """Cut all documents behind each other.

    Args:
        source: The corpus.
        sequences: Number of windows at random places; None: all windows, one after the other.
        length: Tokens per window, those of ``opening`` included.
        seed: Seed of the places.
        opening: What every window begins with.

    Raises:
        DataError: The corpus is too short, or answers are told and there are none.
    """
    ids, answers = source.stream()
    inner = length - len(opening)
    if answers is None:
        found = (
            consecutive(ids, inner) if sequences is None else at_random(ids, sequences, inner, seed)
        )
        return Cut(_opened(found, opening), [length] * len(found), None, len(ids))
    starts = _starts(answers, inner, sequences is None)
    if not len(starts):
        raise DataError(
            f"text too short for the windows asked: {len(ids)} tokens there, none of whose windows"
            f" of {length} holds an answer; lower the length, or use predict 'all'"
        )
    if sequences is not None:
        starts = [starts[draw(seed, number) % len(starts)] for number in range(sequences)]
    rows = [slice(start, start + inner) for start in starts]
    told = _opened(np.stack([answers[row] for row in rows]), [False] * len(opening))
    found = _opened(np.stack([ids[row] for row in rows]), opening)
    return Cut(found, [length] * len(found), told, len(ids))


def cut_documents(
    source: Source, sequences: int, length: int, seed: int, opening: Sequence[int] = ()
) -> Cut:
    """Draw documents without replacement, one a window, cut off at its length.

    Passed over are documents of less than two tokens and, where answers are told, those without
    one inside the window. Draws are prefix-stable.

    Args:
        source: The corpus.
        sequences: Number of windows.
        length: Tokens per window, at most.
        seed: Seed of the draw.
        opening: What every window begins with; a document that begins so gets nothing more.

    Raises:
        DataError: There are too few such documents.
    """
    ids = np.full((sequences, length), PADDING, dtype=np.int32)
    told, any_told = np.zeros((sequences, length), dtype=bool), False
    lengths: list[int] = []
    read = 0
    for number in by_rank(source.count, seed):
        document = source.document(number)
        read += len(document.ids)
        tokens, answers = _begun(document, opening, length)
        if len(tokens) < 2 or (answers is not None and not answers[1:].any()):
            continue
        ids[len(lengths), : len(tokens)] = tokens
        told[len(lengths), : len(tokens)] = True if answers is None else answers
        any_told = any_told or answers is not None
        lengths.append(len(tokens))
        if len(lengths) == sequences:
            return Cut(ids, lengths, told if any_told else None, read)
    raise DataError(
        f"{sequences} windows of one document asked, {len(lengths)} of {source.count} documents can"
        " be one (two tokens or more, and an answer where answers count); lower sequences"
    )


def together(cuts: Sequence[Cut], shares: Sequence[float], sequences: int) -> Cut:
    """Mix windows of several corpora; each window is of one.

    Window i is of the corpus that lacks most of its share of i + 1 windows, so the shares hold for
    the first windows, too.

    Args:
        cuts: Windows of each corpus, at least as many as it gets.
        shares: Their shares, which sum to 1.
        sequences: Number of windows.
    """
    places = _order(shares, sequences)
    told = None
    if any(cut.answers is not None for cut in cuts):
        whole = [np.ones_like(c.ids, dtype=bool) if c.answers is None else c.answers for c in cuts]
        told = np.stack([whole[which][number] for which, number in places])
    return Cut(
        np.stack([cuts[which].ids[number] for which, number in places]),
        [cuts[which].lengths[number] for which, number in places],
        told,
        sum(cut.read for cut in cuts),
    )


def shared_out(shares: Sequence[float], sequences: int) -> list[int]:
    """Return how many of ``sequences`` windows are of each corpus."""
    counts = [0] * len(shares)
    for which, _ in _order(shares, sequences):
        counts[which] += 1
    return counts


def _order(shares: Sequence[float], sequences: int) -> list[tuple[int, int]]:
    """For each window its corpus, and its number among the windows of that corpus."""
    counts, found = [0] * len(shares), []
    for number in range(sequences):
        lacks = [share * (number + 1) - count for share, count in zip(shares, counts, strict=True)]
        which = lacks.index(max(lacks))
        found.append((which, counts[which]))
        counts[which] += 1
    return found


def _starts(answers: np.ndarray, length: int, consecutive: bool) -> list[int]:
    """Places at which a window begins that holds an answer behind its first token."""
    sums = np.concatenate([[0], np.cumsum(answers)])
    places = np.arange(0, len(answers) - length + 1, length if consecutive else 1)
    found: list[int] = places[sums[places + length] > sums[places + 1]].tolist()
    return found


def _opened(windows: np.ndarray, opening: Sequence[int]) -> np.ndarray:
    return np.insert(windows, [0] * len(opening), opening, axis=1) if opening else windows


def _begun(document: Tokens, opening: Sequence[int], length: int) -> Tokens:
    """The window of a document."""
    ids, answers = document
    if list(ids[: len(opening)]) != list(opening):
        ids = np.concatenate([np.asarray(opening, dtype=np.int32), ids])
        if answers is not None:
            answers = np.concatenate([np.zeros(len(opening), dtype=bool), answers])
    return Tokens(ids[:length], None if answers is None else answers[:length])
