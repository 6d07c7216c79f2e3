"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import tabulate

__all__ = ["VERDICTS", "aligned"]

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
