"""The two sublayers of a block, by the names of their modules."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Branches", "Sublayer"]


@dataclass(frozen=True)
class Sublayer:
    """The modules of one branch, by their names in the block.

    Attributes:
        zero: Modules whose output is added to the hidden states, each with the length of the
            tuple that it returns, 0 for a bare tensor.
        passed: Modules that only those in ``zero`` read, each with the same number.
    """

    zero: dict[str, int] = field(default_factory=dict)
    passed: dict[str, int] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The names of all these modules."""
        return [*self.zero, *self.passed]

    def to_json(self) -> dict[str, dict[str, int]]:
        """The entry of this sublayer in a configuration."""
        return {"zero": dict(self.zero), "pass": dict(self.passed)}


@dataclass(frozen=True)
class Branches:
    """Both branches of a block.

    Attributes:
        sublayers: ``attention`` and ``mlp``, without those that were removed already.
        sequential: Whether the mlp reads what the attention added. In parallel blocks it does not.
    """

    sublayers: dict[str, Sublayer]
    sequential: bool
