"""Kinds of blocks that programs besides transformers compute from a block's number."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PretrainedConfig

from fusegpt.data.kinds import DEEP, LISTS, kinds_of
from fusegpt.models.structure.configs import shrunken
from fusegpt.runtime import quiet

__all__ = ["off_formula"]


def off_formula(config: PretrainedConfig, keep: Sequence[int] | None = None) -> list[str]:
    """Return the lists of kinds that are not what the family's formula gives by number.

    transformers reads the lists; a program that computes kinds from numbers runs other blocks.
    The formula is what the config's class fills in where a list is absent.

    Args:
        config: The decoder's.
        keep: Places of the blocks that stay; None: all.
    """
    changes = {} if keep is None else shrunken(config, config.num_hidden_layers, keep)
    settings = {**config.to_dict(), **changes}
    plain = {name: value for name, value in settings.items() if name not in LISTS}
    try:
        with quiet():
            cls = type(config)
            have, formula = cls(**settings), cls(**plain)
            deep = cls(**{**plain, "num_hidden_layers": DEEP})
    except Exception:  # a class whose config cannot do without a list has no formula
        return []
    return [
        name
        for name in LISTS
        if kinds_of(have, [name]) and len({*kinds_of(deep, [name])}) > 1
        if kinds_of(have, [name]) != kinds_of(formula, [name])
    ]
