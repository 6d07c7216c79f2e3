"""The two sublayers of a block, by the names of their modules."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Branches", "Sublayer"]


@dataclass(frozen=True)
class Sublayer:
    """The modules of one branch, by their names in the block.

    Attributes:
        zero: Those whose output is added to the hidden states, with the length of the tuple they
            return, 0 for a bare tensor.
        passed: Those that only they read, likewise.
    """

    zero: dict[str, int] = field(default_factory=dict)
    passed: dict[str, int] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [*self.zero, *self.passed]

    def to_json(self) -> dict[str, dict[str, int]]:
        """As it stands in a configuration."""
        return {"zero": dict(self.zero), "pass": dict(self.passed)}


@dataclass(frozen=True)
class Branches:
    """Both branches of a block.

    Attributes:
        sublayers: ``attention`` and ``mlp``; one that is removed already is not there.
        sequential: Whether the mlp reads what the attention added; False in parallel blocks.
    """

    sublayers: dict[str, Sublayer]
    sequential: bool
