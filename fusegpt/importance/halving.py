"""Approximate scores: all units on a few windows, the less important half of them on twice as many.

Who is left at the end was scored on all windows, to the last bit as if all had been. The lowest of
them is the lowest of all unless that one had to leave earlier.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

from fusegpt.importance.sums import Sums

__all__ = ["halve"]

T = TypeVar("T")


def halve(
    measure: Callable[[int, int, Sequence[T]], Sums],
    combine: Callable[[Sums], Tensor],
    units: Sequence[T],
    number: int,
    share: float,
) -> tuple[list[T], Tensor]:
    """Score on growing numbers of batches, half of the units each time.

    Args:
        measure: From the first batch, the one behind the last, and units to what these batches
            add to the scores of those units.
        combine: From the sums of several batches to scores.
        units: All that may go.
        number: Number of batches.
        share: Fraction of the batches that all units are scored on, in (0, 1].

    Returns:
        The units that are left, in order, and their scores on all batches.
    """
    left, sums, done = list(units), Sums(), 0
    while True:
        end = min(number, 2 * done or max(1, math.ceil(share * number)))
        sums.extend(measure(done, end, left))
        scores, done = combine(sums), end
        if done == number:
            return left, scores
        half = sorted(scores.argsort(stable=True)[: (len(left) + 1) // 2].tolist())
        left, sums = [left[place] for place in half], sums.of(half)
