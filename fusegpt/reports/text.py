"""Text: tables for a terminal, foreign words in Markdown, indices in short."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import tabulate

__all__ = ["VERDICTS", "aligned", "code", "escaped", "ranges"]

VERDICTS = {None: "not resolved", True: "better", False: "worse"}
"""What an interval says of a difference."""

tabulate.MIN_PADDING = 0  # its constant: by default heads get two spaces more than they need


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out columns side by side, the first to the left, the others to the right.

    Args:
        head: A word or two for each column.
        rows: Cells of each line, as many as ``head`` has.
    """
    sides = ("left", *["right"] * (len(head) - 1))
    text: str = tabulate.tabulate(
        rows, head, tablefmt="simple", disable_numparse=True, colalign=sides
    )
    return text


def escaped(value: Any) -> str:
    """Write foreign text as one line of Markdown that shows it as it is, also inside a table."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(str(value).split()))


def code(value: Any) -> str:
    """Write foreign text as Markdown code, on one line; backticks become apostrophes."""
    return "`" + " ".join(str(value).split()).replace("`", "'") + "`"


def ranges(indices: Iterable[int]) -> str:
    """Write ascending indices short: ``[1, 2, 3, 5]`` as ``1-3, 5``."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
