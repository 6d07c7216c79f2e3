"""From a sparsity to a number of removals."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from fusegpt.errors import ConfigError
from fusegpt.units import part_of

__all__ = ["check_sparsity", "removals"]


def check_sparsity(sparsity: Decimal | float | str, where: str = "sparsity") -> Decimal:
    """Read a sparsity as a decimal, so that 0.3 of 10 units is 3 and not 4.

    Raises:
        ConfigError: It is no number in [0, 1).
    """
    try:
        value = Decimal(str(sparsity))
    except InvalidOperation:
        value = Decimal(-1)
    if not value.is_finite() or not 0 <= value < 1:
        raise ConfigError(
            f"{where}: must be a fraction of units in [0, 1), got {sparsity!r}; 25% is 0.25"
        )
    return value


def removals(num_units: int, sparsity: Decimal | float | str, where: str = "sparsity") -> int:
    """Return how many of ``num_units`` units a sparsity removes: ceil(num_units · sparsity).

    Paper: Section IV-B (decision D14): 20, 25, 30% of 32 blocks are 7, 8, 10.

    Raises:
        ConfigError: The sparsity is outside [0, 1), or nothing would be left.
    """
    value = check_sparsity(sparsity, where)
    count = part_of(num_units, value)
    if count >= num_units:
        raise ConfigError(
            f"{where}: {sparsity} of {num_units} units removes all of them;"
            f" at most {num_units - 1} can go"
        )
    return count
