"""Unit: what one pruning step removes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["KINDS", "Granularity", "Kind", "Unit"]

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
