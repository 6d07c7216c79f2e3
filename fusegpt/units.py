"""Unit: what one pruning step removes."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any, Literal

__all__ = ["KINDS", "LIMIT", "Granularity", "Kind", "Unit", "listed_units", "part_of"]

Kind = Literal["block", "attention", "mlp"]
Granularity = Literal["block", "attention", "mlp", "mixed"]
"""What a recipe removes; ``mixed``: attentions and mlps compete."""

KINDS: dict[Granularity, tuple[Kind, ...]] = {
    "block": ("block",),
    "attention": ("attention",),
    "mlp": ("mlp",),
    "mixed": ("attention", "mlp"),
}
"""The kinds of units of each granularity; every block has one of each kind."""


@dataclass(frozen=True, order=True)
class Unit:
    """A block, or one sublayer of it.

    Attributes:
        kind: What is removed.
        index: Position of the block in the *dense* model, 0-based.
    """

    kind: Kind
    index: int

    def __str__(self) -> str:
        return f"{self.kind} {self.index}"

    def to_json(self) -> dict[str, Any]:
        """The unit as it stands in manifests."""
        return {"granularity": self.kind, "index": self.index}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Unit:
        """Read what ``to_json`` wrote."""
        return cls(data["granularity"], int(data["index"]))


LIMIT = 10_000
"""Numbers in a list of units are below it."""

_LISTED = re.compile(
    r"(?:block |(?P<kind>attention |mlp ))?(?P<first>\d{1,4})(?:-(?P<last>\d{1,4}))?"
)


def listed_units(listed: Any) -> list[int | str]:
    """Write out a list of units: ``[17, "14-16", "attention 3"]`` has five.

    Args:
        listed: Numbers of blocks, ranges of them as text, or either behind ``attention``, ``mlp``.

    Returns:
        A number for each block and a name such as ``attention 3`` for each sublayer, in the order
        of the list; a range may count down.

    Raises:
        ValueError: An entry is none of these, or a unit stands there twice.
    """
    if not isinstance(listed, list | tuple):
        raise ValueError(f"must be a list such as [17, '14-16'], got {listed!r:.80}")
    found: list[int | str] = []
    for entry in listed:
        match = None if isinstance(entry, bool) else _LISTED.fullmatch(str(entry))
        if match is None:
            raise ValueError(
                "must hold numbers of blocks, ranges such as '14-16', or names such as"
                f" 'attention 3', got {entry!r:.80}"
            )
        first, last = int(match["first"]), int(match["last"] or match["first"])
        turn = 1 if last >= first else -1
        numbers = range(first, last + turn, turn)
        found += [f"{match['kind']}{number}" for number in numbers] if match["kind"] else numbers
    for unit, times in Counter(found).items():
        if times > 1:
            raise ValueError(f"must name each unit once, got {unit!r} {times} times")
    return found


def part_of(count: int, fraction: Decimal | float | str) -> int:
    """Return ceil(count · fraction) in decimals, so that 0.3 of 10 is 3 and not 4."""
    return int((Decimal(str(fraction)) * count).to_integral_value(rounding=ROUND_CEILING))
