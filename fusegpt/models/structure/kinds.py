"""What programs besides transformers compute from the numbers of blocks, and so may get wrong."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PretrainedConfig

from fusegpt.data.kinds import DEEP, LISTS, kinds_of
from fusegpt.models.structure.configs import OVERRIDES, shrunken
from fusegpt.runtime import quiet

__all__ = ["off_formula", "off_scale"]


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
    for name in ("per_layer_config", OVERRIDES):  # go by the numbers of blocks, and name no kinds
        settings.pop(name, None)
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


def off_scale(config: PretrainedConfig) -> str | None:
    """Return a sentence on a scale of attention that some programs take from the number of blocks.

    llama.cpp reads no ``query_pre_attn_scalar``: of Gemma 2 and 3 it scales by the size of a head,
    but for the two numbers of blocks that their 27B models have.

    Args:
        config: The decoder's. None comes back where the size of a head is that value.
    """
    scalar = getattr(config, "query_pre_attn_scalar", None)
    size = None if scalar is None else getattr(config, "head_dim", None)
    if scalar is None or size is None or scalar == size:
        return None
    return (
        f"query_pre_attn_scalar is {scalar:g}, the size of a head {size}: llama.cpp (Gemma 2, Gemma"
        " 3) does not read the former and, unless it knows the model by its number of blocks,"
        " scales attention by the latter, which is another model; transformers reads it"
    )
