"""One value per item (a question, a window), kept compactly beside a row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

__all__ = ["fingerprint", "pack", "unpack"]


def fingerprint(parts: Iterable[str]) -> str:
    """16 hex digits that tell one list of items from another."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part.encode()).digest())
    return digest.hexdigest()[:16]


def pack(
    values: Sequence[float], of: str, *, statistic: str = "mean", strata: Sequence[int] = ()
) -> dict[str, Any]:
    """Values as one line of text, e.g. ``"0 1 1"``.

    Args:
        values: One per item, in the items' order.
        of: The items' fingerprint.
        statistic: How the row's value comes from them: ``mean``, or ``exp_mean`` (perplexity).
        strata: Sizes of consecutive groups whose means are averaged; none: one group.
    """
    packed: dict[str, Any] = {"of": of, "statistic": statistic}
    if strata:
        packed["strata"] = list(strata)
    return {**packed, "values": " ".join(f"{float(value):.10g}" for value in values)}


def unpack(values: str) -> np.ndarray:
    """Read the values of ``pack`` back, ``[items]`` float64."""
    return np.array(values.split(), dtype=np.float64)
