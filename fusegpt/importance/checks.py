"""Refusing scores that mean nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fusegpt.errors import NumericsError
from fusegpt.units import Unit

__all__ = ["finite"]


def finite(metric: str, units: Sequence[Unit], scores: Tensor) -> Tensor:
    """Return ``scores`` as they came.

    Raises:
        NumericsError: One is NaN or infinite. The message names the metric and the unit.
    """
    for unit, score in zip(units, scores, strict=True):
        if not torch.isfinite(score):
            raise NumericsError(f"{metric} of {unit}: score is {score.item()}")
    return scores
