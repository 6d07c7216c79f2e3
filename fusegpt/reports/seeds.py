"""Whether a recipe differs from another one by more than its seeds do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from fusegpt.errors import ConfigError
from fusegpt.registry import lookup
from fusegpt.reports.tables import format_sparsity, format_value, with_labels
from fusegpt.reports.text import VERDICTS, aligned
from fusegpt.results.point import DENSE

__all__ = ["SeedDifference", "over_seeds", "seeds_text"]


@dataclass(frozen=True)
class SeedDifference:
    """A recipe's value minus the reference recipe's, seed by seed.

    Attributes:
        model: Name of the dense model.
        sparsity: Where it was measured.
        recipe: The recipe that is compared.
        label: Name of the value.
        seeds: Pairs of runs with one seed.
        mean: Mean of the recipe's values.
        difference: Mean of the paired differences, in the value's unit.
        low: Lower bound of that mean: Student's t, ``seeds - 1`` degrees of freedom.
        high: Upper bound.
        better: Whether the recipe is better; None when the interval holds 0.
    """

    model: str
    sparsity: float
    recipe: str
    label: str
    seeds: int
    mean: float
    difference: float
    low: float
    high: float
    better: bool | None


def over_seeds(
    frame: pd.DataFrame, against: str, *, confidence: float = 0.95
) -> list[SeedDifference]:
    """Compare every recipe with one of them, pairing runs of the same seed.

    A seed decides the windows that are drawn and the first values of what is trained, so the two
    runs of a pair saw the same text, and what that text gives to both falls out of the difference.

    Args:
        frame: Rows of ``collect``.
        against: A recipe of the table.
        confidence: Confidence of each interval by itself.

    Returns:
        One entry per model, sparsity, recipe and value with at least two seeds, in table order.

    Raises:
        ConfigError: No such recipe, or nothing was run with two seeds.
    """
    names = [name for name in pd.unique(frame["recipe"]) if name != DENSE]
    lookup(dict.fromkeys(names), against, "recipe of this table")
    found = []
    keys = ["model", "sparsity", "label"]
    for (model, sparsity, label), group in with_labels(frame).groupby(keys, sort=False):
        values = group.pivot_table(index="seed", columns="recipe", values="value", sort=False)
        if against not in values:
            continue
        sign = 1 if group["higher_is_better"].iloc[0] else -1
        for name in [name for name in names if name in values and name != against]:
            pairs = values[[name, against]].dropna()
            if len(pairs) < 2:
                continue
            delta = (pairs[name] - pairs[against]).to_numpy()
            low, high = _interval(delta, confidence)
            better = None if low <= 0 <= high else bool(sign * delta.mean() > 0)
            mean = float(pairs[name].mean())
            found.append(
                SeedDifference(
                    model, sparsity, name, label, len(pairs), mean, delta.mean(), low, high, better
                )
            )
    if not found:
        raise ConfigError(f"{against}: no recipe has two seeds in common with it; add seeds")
    return found


def seeds_text(differences: list[SeedDifference], against: str) -> str:
    """Write one aligned line per difference."""
    head = (
        "recipe",
        "sparsity",
        "value",
        "seeds",
        "mean",
        f"minus {against}",
        "interval",
        "verdict",
    )
    rows = [
        (
            one.recipe,
            format_sparsity(one.sparsity),
            one.label,
            str(one.seeds),
            format_value(one.mean),
            f"{one.difference:+.4g}",
            f"[{one.low:+.4g}, {one.high:+.4g}]",
            VERDICTS[one.better],
        )
        for one in differences
    ]
    return aligned(head, rows)


def _interval(delta: np.ndarray, confidence: float) -> tuple[float, float]:
    """Bounds of the mean; a single point when all differences are equal."""
    error = stats.sem(delta)
    if error == 0:
        return float(delta[0]), float(delta[0])
    low, high = stats.t.interval(confidence, len(delta) - 1, loc=delta.mean(), scale=error)
    return float(low), float(high)
