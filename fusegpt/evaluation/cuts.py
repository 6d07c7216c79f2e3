"""Windows of perplexity that lie inside documents."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from fusegpt.data.corpora import Text
from fusegpt.data.tokens import encode
from fusegpt.errors import ConfigError, DataError

__all__ = ["inside_documents"]


def inside_documents(
    tokenizer: Any, text: Text, length: int, windows: int | None, bos: str
) -> tuple[np.ndarray, int]:
    """Draw documents until one is longer than a window, then a place in it; ``windows`` times.

    The draws are those of GPTQ's loader, Python's random numbers from seed 0.

    Returns:
        ``[windows, length]`` int32, and the number of tokens read.

    Raises:
        ConfigError: ``windows`` is None.
        DataError: Twenty times as many draws as there are documents found none long enough.
    """
    if windows is None:
        raise ConfigError("windows: must be given for cut 'documents'; the literature takes 256")
    cut: list[np.ndarray] = []
    draw, tokens, misses = random.Random(0), 0, 0
    while len(cut) < windows:
        ids = encode(tokenizer, text.rows[draw.randint(0, len(text.rows) - 1)], bos=bos == "stream")
        tokens += len(ids)
        if len(ids) > length:
            place = draw.randint(0, len(ids) - length - 1)
            cut.append(ids[place : place + length])
            misses = 0
        elif (misses := misses + 1) > 20 * len(text.rows):
            raise DataError(
                f"corpus {text.name!r}: no document is longer than a window of {length} tokens;"
                " lower the length"
            )
    return np.stack(cut), tokens
