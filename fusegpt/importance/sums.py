"""Sums over calibration windows, batch by batch, so that several jobs can share the windows.

What a batch adds is kept by itself and added up in the order of the batches: whoever measured a
batch, the scores are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Sums", "mean"]


class Sums:
    """What each batch adds to the scores of all units.

    Attributes:
        values: One ``[units]`` float64 on the CPU for each batch.
        weights: How many values each of them is the sum of.
    """

    def __init__(self) -> None:
        self.values: list[Tensor] = []
        self.weights: list[int] = []

    def add(self, values: Sequence[Tensor], weight: int) -> None:
        """Note what a batch adds.

        Args:
            values: A float64 scalar for each unit, on any device.
            weight: How many values each is the sum of.
        """
        self.values.append(torch.stack([value.cpu() for value in values]))
        self.weights.append(weight)

    def extend(self, more: Sums) -> None:
        """Append what further batches add."""
        self.values += more.values
        self.weights += more.weights

    def of(self, places: Sequence[int]) -> Sums:
        """Return the same of some units alone."""
        fewer = Sums()
        fewer.values = [values[list(places)] for values in self.values]
        fewer.weights = list(self.weights)
        return fewer

    def mean(self) -> Tensor:
        """Return ``[units]`` float64: all values of all batches, averaged."""
        total = torch.zeros_like(self.values[0])
        for values in self.values:
            total += values
        return total / sum(self.weights)


def mean(sums: Sums) -> Tensor:
    """Return the scores of a metric that is a mean."""
    return sums.mean()
