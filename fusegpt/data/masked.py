"""Windows of unequal length, and windows in which only some predictions count.

Padding stands behind the tokens of a window, where causal models cannot see it: the states of the
tokens are the same with and without it, so forward passes get no mask. What looks at all places of
a window (losses, statistics, counts) asks here which of them are tokens; the functions take plain
ids, too, of which every place is a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from fusegpt.data.carried import Carried
from fusegpt.errors import DataError

__all__ = ["IGNORED", "Masked", "mask_of", "next_tokens", "predicted", "tokens_in", "unpadded"]

IGNORED = -100
"""Target that cross-entropy leaves out."""


class Masked(Carried):
    """Token ids ``[sequences, length]`` that end in padding, or whose predictions count in part.

    Attributes:
        lengths: Number of tokens of each window; whatever stands behind them is padding.
        answers: ``[sequences, length]`` bool: the tokens whose prediction counts in losses of the
            next token. None: all.
    """

    lengths: Sequence[int]
    answers: Tensor | None

    @staticmethod
    def of(ids: Tensor, lengths: Sequence[int], answers: Tensor | None = None) -> Masked:
        """Put ids and what is known of their places together."""
        assert len(ids) == len(lengths), (len(ids), len(lengths))
        made = torch.Tensor._make_subclass(Masked, ids)
        made.lengths, made.answers = list(lengths), answers
        return made

    def part(self, sequences: slice) -> Masked:
        """Return some of the windows, at full length."""
        answers = None if self.answers is None else self.answers[sequences]
        return Masked.of(self.plain()[sequences], self.lengths[sequences], answers)

    def split(self, size: Any, dim: int = 0) -> tuple[Tensor, ...]:
        """Return pieces of ``size`` windows, each as long as its longest window."""
        pieces = super().split(size, dim)
        return tuple(x.cut(max(x.lengths)) if isinstance(x, Masked) else x for x in pieces)

    def cut(self, length: int) -> Masked:
        """Return the first places of every window."""
        answers = None if self.answers is None else self.answers[:, :length]
        return Masked.of(self.plain()[:, :length], self.lengths, answers)

    def mask(self) -> Tensor:
        """Return ``[sequences, length]`` bool: True for a token, False for padding."""
        return torch.arange(self.shape[1]) < torch.tensor(self.lengths)[:, None]

    def check(self, where: str) -> None:
        """Refuse windows of which nothing could be learned.

        Raises:
            DataError: A window has no two tokens, or none whose prediction counts; the message
                starts with ``where``.
        """
        for number, length in enumerate(self.lengths):
            if not 2 <= length <= self.shape[1]:
                raise DataError(
                    f"{where}: window {number} must have 2 to {self.shape[1]} tokens before its"
                    f" padding, got {length}"
                )
        if self.answers is not None:
            counts = (next_tokens(self) != IGNORED).sum(dim=1)
            for number in (counts == 0).nonzero().flatten().tolist():
                raise DataError(
                    f"{where}: window {number} must have a token whose prediction counts, got none;"
                    " sample it again with longer windows"
                )


def mask_of(ids: Tensor) -> Tensor | None:
    """Return ``[sequences, length]`` bool, True for a token; None: every place is one."""
    padded = isinstance(ids, Masked) and min(ids.lengths) < ids.shape[1]
    return ids.mask() if padded else None  # type: ignore[attr-defined]


def tokens_in(ids: Tensor) -> int:
    """Return the number of tokens, padding left out."""
    return sum(ids.lengths) if isinstance(ids, Masked) else ids.shape[0] * ids.shape[1]


def next_tokens(ids: Tensor) -> Tensor:
    """Return the targets of a loss of the next token.

    Returns:
        ``[sequences, length - 1]`` int64; ``IGNORED`` where the prediction does not count.
    """
    targets = ids[:, 1:]
    if not isinstance(ids, Masked):
        return targets
    kept = ids.mask() if ids.answers is None else ids.mask() & ids.answers
    return targets.masked_fill(~kept[:, 1:], IGNORED)


def predicted(ids: Tensor) -> int:
    """Return the number of next tokens whose prediction counts."""
    if not isinstance(ids, Masked):
        return ids.shape[0] * (ids.shape[1] - 1)
    return int((next_tokens(ids) != IGNORED).sum())


def unpadded(ids: Tensor, batch_size: int) -> list[Tensor]:
    """Split windows into batches without any padding.

    Args:
        ids: ``[sequences, length]``.
        batch_size: Windows of a batch, at most: only neighbours that are equally long share one.

    Returns:
        Batches in order, each ``[batch, seq]``, plain ids unless only some predictions count.
    """
    if not isinstance(ids, Masked):
        return list(ids.split(batch_size))
    batches: list[Tensor] = []
    start = 0
    for _, group in groupby(ids.lengths):
        end = start + len(list(group))
        run = ids.part(slice(start, end)).cut(ids.lengths[start])
        batches += (run.plain() if ids.answers is None else run).split(batch_size)
        start = end
    return batches
