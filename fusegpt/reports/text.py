"""Text: tables for a terminal, foreign words in Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import tabulate

__all__ = ["VERDICTS", "aligned", "code", "escaped"]

VERDICTS = {None: "not resolved", True: "better", False: "worse"}
"""What an interval says of a difference."""

tabulate.MIN_PADDING = 0  # its constant: by default heads get two spaces more than they need


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side, the first to the left, the others to the right.

    Args:
        head: A word or two for each column.
        rows: Of as many cells.
    """
    sides = ("left", *["right"] * (len(head) - 1))
    return tabulate.tabulate(rows, head, tablefmt="simple", disable_numparse=True, colalign=sides)


def escaped(value: Any) -> str:
    """Foreign text as one line of Markdown that shows it as it is, also inside a table."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(str(value).split()))


def code(value: Any) -> str:
    """Foreign text as Markdown code, on one line; backticks become apostrophes."""
    return "`" + " ".join(str(value).split()).replace("`", "'") + "`"
