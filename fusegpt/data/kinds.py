"""Kinds of blocks by their number: what a family's formula gives, and after how many it repeats."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusegpt.runtime import quiet

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["DEEP", "LISTS", "Kind", "Pattern", "kinds_of", "pattern_of"]

LISTS = ("layer_types", "layers_block_type", "no_rope_layers")
"""Lists with a block's kind in each place."""
DEEP = 64
"""Blocks of a model in which a formula shows every kind that it gives."""

Kind = tuple[Any, ...]
"""What the lists say of one block."""


@dataclass(frozen=True)
class Pattern:
    """Kinds that repeat.

    Attributes:
        names: The lists that a formula fills in.
        period: Number of blocks after which they repeat.
        kinds: The kind of each block, for more blocks than the model has.
    """

    names: tuple[str, ...]
    period: int
    kinds: tuple[Kind, ...]

    def fits(self, kinds: Sequence[Kind]) -> bool:
        """Whether blocks are of the kinds that the formula gives by their places."""
        return tuple(kinds) == self.kinds[: len(kinds)]

    def completes(self, kinds: Sequence[Kind], may_go: Collection[int], more: int) -> bool:
        """Whether some ``more`` removals leave blocks that fit.

        Args:
            kinds: Those of the blocks that are there.
            may_go: Places of blocks that may be removed.
            more: Number of removals.
        """
        gone = {0}  # numbers of blocks that can be removed so far, the others fitting
        for place, kind in enumerate(kinds):
            stays = {count for count in gone if kind == self.kinds[place - count]}
            goes = {count + 1 for count in gone if place in may_go and count < more}
            gone = stays | goes
        return more in gone


def pattern_of(config: PretrainedConfig) -> Pattern | None:
    """Find the pattern of a family's kinds; None: they follow no formula, or it does not repeat.

    The formula is what the config's class fills in where a list is absent.

    Args:
        config: The decoder's, of a dense or a pruned model.
    """
    count = max(DEEP, 2 * config.num_hidden_layers)
    plain = {name: value for name, value in config.to_dict().items() if name not in LISTS}
    cls = type(config)
    try:
        with quiet():
            deep, own = (cls(**{**plain, "num_hidden_layers": n}) for n in (count, count - 1))
    except Exception:  # a class whose config cannot do without a list has no formula
        return None
    names = tuple(name for name in LISTS if len({*_list(deep, name)}) > 1)
    kinds = kinds_of(deep, names)
    if not names or kinds[: count - 1] != kinds_of(own, names):
        return None
    for period in range(2, count // 2 + 1):
        if kinds[period:] == kinds[:-period]:
            return Pattern(names, period, kinds)
    return None


def kinds_of(config: PretrainedConfig, names: Sequence[str]) -> tuple[Kind, ...]:
    """Return what the lists of a configuration say, block by block."""
    return tuple(zip(*(_list(config, name) for name in names), strict=True))


def _list(config: PretrainedConfig, name: str) -> list[Any]:
    return list(getattr(config, name, None) or [])
