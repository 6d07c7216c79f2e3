"""Two models on the same items: is the difference real, or within what chance gives?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusegpt.errors import ArtifactError, DataError
from fusegpt.evaluation.items import unpack
from fusegpt.results.models import Row

__all__ = ["Difference", "compare"]

logger = logging.getLogger(__name__)

RESAMPLES = 9999
AT_ONCE = 1 << 22
"""Numbers drawn at one time, 32 MiB."""


@dataclass(frozen=True)
class Difference:
    """What a second model's value is more than a first one's, on the same items.

    Attributes:
        task: Task of the compared row.
        metric: Metric of the compared row.
        first: Value of the first model.
        second: Value of the second model.
        difference: second - first.
        low: Lower bound of the interval of the difference.
        high: Upper bound of the interval of the difference.
        better: Whether the second is better; None when the interval holds 0.
        num_samples: Number of items.
    """

    task: str
    metric: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    better: bool | None
    num_samples: int


def compare(
    first: Sequence[Row], second: Sequence[Row], *, confidence: float = 0.95, seed: int = 0
) -> list[Difference]:
    """Paired bootstrap of the difference of every value that two results have in common.

    Items are drawn with replacement, each with both models' values; for a mean over tasks, within
    each task. The interval is the percentile interval of the differences.

    Args:
        first: Rows of a result of ``fusegpt evaluate``.
        second: Rows of another model's, measured by the same evaluation.
        confidence: Confidence of each interval by itself; many comparisons at once need more.
        seed: Seed of the draws.

    Returns:
        One difference per common row that kept its items, in the first result's order.

    Raises:
        ArtifactError: Nothing can be compared.
        DataError: The results were measured on other items.
    """
    others = {_key(row): row for row in second}
    found = [
        _compare_rows(row, other, confidence, seed)
        for row in first
        if (other := others.get(_key(row))) is not None and row.items and other.items
    ]
    if not found:
        raise ArtifactError(
            "nothing to compare: the results have no task, metric and items in common;"
            " evaluate both with the same settings"
        )
    return found


def _compare_rows(row: Row, other: Row, confidence: float, seed: int) -> Difference:
    assert row.items is not None and other.items is not None
    if row.items.of != other.items.of:
        raise DataError(
            f"{row.task} {row.metric}: the two results were measured on different items"
        )
    pairs = np.stack([unpack(items.values) for items in (row.items, other.items)])  # [2, items]
    sizes = row.items.strata or [pairs.shape[1]]
    strata = np.split(pairs, np.cumsum(sizes)[:-1], axis=1)
    combine = {"mean": np.positive, "exp_mean": np.exp}[row.items.statistic]
    low, high = _interval(strata, combine, confidence, seed)
    better = None
    if low > 0 or high < 0:
        better = (low > 0) == row.higher_is_better
    return Difference(
        task=row.task,
        metric=row.metric,
        first=row.value,
        second=other.value,
        difference=other.value - row.value,
        low=low,
        high=high,
        better=better,
        num_samples=pairs.shape[1],
    )


def _interval(
    strata: Sequence[np.ndarray],
    combine: Callable[[np.ndarray], np.ndarray],
    confidence: float,
    seed: int,
) -> tuple[float, float]:
    """Percentile bounds of ``combine(mean second) - combine(mean first)``.

    Args:
        strata: Each ``[2, items]``; resampled one by one, their means averaged.
        combine: From the mean of the items to the value.
        confidence: Confidence of the interval.
        seed: Seed of the draws.
    """
    if all(np.array_equal(*pairs) for pairs in strata):
        return 0.0, 0.0
    means = [_resampled_means(pairs, seed + number) for number, pairs in enumerate(strata)]
    first, second = combine(np.mean(means, axis=0))  # [resamples] each
    tail = (1 - confidence) / 2
    low, high = np.quantile(second - first, [tail, 1 - tail])
    return float(low), float(high)


def _resampled_means(pairs: np.ndarray, seed: int) -> np.ndarray:
    """Means of both sides ``[2, items]`` in each resample, ``[2, resamples]``."""
    if pairs.shape[1] == 1:  # the only item is always drawn
        return np.repeat(pairs, RESAMPLES, axis=1)
    from scipy.stats import bootstrap

    def both(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
        return np.stack([first.mean(axis=axis), second.mean(axis=axis)])

    result = bootstrap(
        tuple(pairs),
        both,
        paired=True,
        n_resamples=RESAMPLES,
        batch=max(1, AT_ONCE // pairs.shape[1]),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    values: np.ndarray = result.bootstrap_distribution
    return values


def _key(row: Row) -> tuple[Any, ...]:
    """What two rows must share; of a mean, the tasks as well."""
    return row.task, row.metric, row.protocol.get("of")
