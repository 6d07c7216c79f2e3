"""From a sparsity to a hidden size."""

from __future__ import annotations

from decimal import Decimal

from fusegpt.errors import ConfigError

__all__ = ["sliced_width"]


def sliced_width(hidden: int, sparsity: float | str | Decimal, round_interval: int = 8) -> int:
    """The hidden size that is left: ``(1 - sparsity) * hidden``, down to a multiple.

    Rounded down to ``round_interval``, as in SliceGPT's released code. A sparsity of 0 keeps every
    dimension, whatever the interval.

    Args:
        hidden: The dense model's hidden size.
        sparsity: Fraction of it to slice off, in [0, 1).
        round_interval: What the result is a multiple of.

    Raises:
        ConfigError: Nothing would be left.
    """
    fraction = Decimal(str(sparsity))
    if fraction == 0:
        return hidden
    kept = int((1 - fraction) * hidden)
    kept -= kept % round_interval
    if kept < 1:
        raise ConfigError(
            f"sparsity: {sparsity} of a hidden size of {hidden} leaves nothing that is a multiple"
            f" of {round_interval}; lower the sparsity or width.round_interval"
        )
    return kept
