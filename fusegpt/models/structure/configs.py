"""What in a config follows when blocks go: counts, per-block lists, lists of block numbers."""

from __future__ import annotations

import dataclasses
import itertools
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from fusegpt.errors import ArchitectureError
from fusegpt.models.blocks import decoder_of, text_config

__all__ = [
    "IMAGE_PLACES",
    "OVERRIDES",
    "moved_images",
    "shrunken",
    "text_configs",
    "unbuilt",
    "without_unbuilt",
]

NOT_PER_BLOCK = frozenset(
    {
        "architectures",
        "bad_words_ids",
        "begin_suppress_tokens",
        "bos_token_id",
        "eos_token_id",
        "keys_to_ignore_at_inference",
        "mrope_section",
        "pad_token_id",
        "suppress_tokens",
    }
)
"""Lists that may happen to be as long as the model is deep."""

BLOCK_NUMBERS = ("_layers", "_layer_ids", "_layer_indices", "_layer_idx", "_idxs")
"""How the names of lists of block numbers end."""

LEADING_COUNTS = (
    "first_k_dense_replace",
    "max_window_layers",
    "num_dense_layers",
    "n_dense_layers",
)
"""Counts of blocks at the beginning that are of another kind."""

UNBUILT_COUNTS = (
    "num_nextn_predict_layers",
    "mtp_num_hidden_layers",
    "mtp_num_layers",
    "num_mtp_layers",
    "num_mtp_modules",
    "n_mtp_layers",
)
"""Counts of blocks for drafting, behind the last one, which no class of transformers builds."""

IMAGE_PLACES = ("deepstack_layer_map", "spatial_target_layers")
"""Lists in the config of a whole model: numbers of blocks before which images add to the hidden
states, alone or at the end of a pair (Granite 4 Vision)."""

OVERRIDES = "_heterogeneity_spec"
"""The attribute in which transformers keeps what single blocks have otherwise than the rest; the
entry ``per_layer_config`` of a file."""


def text_configs(module: PreTrainedModel) -> list[PretrainedConfig]:
    """Every config object that describes the decoder; usually one, shared by all its modules."""
    main = text_config(module)
    found = {id(main): main}
    for child in decoder_of(module).modules():
        config = child.__dict__.get("config")
        if isinstance(config, type(main)) and config.num_hidden_layers == main.num_hidden_layers:
            found[id(config)] = config
    return list(found.values())


def unbuilt(module: PreTrainedModel) -> dict[str, int]:
    """Counts of blocks that the config names and the model does not have."""
    return {
        name: value
        for config in (module.config, *text_configs(module))
        for name in UNBUILT_COUNTS
        if isinstance(value := vars(config).get(name), int) and value > 0  # no alias
    }


@contextmanager
def without_unbuilt(module: PreTrainedModel) -> Iterator[None]:
    """Inside, the config counts no blocks that the model does not have."""
    configs = {id(config): config for config in (module.config, *text_configs(module))}.values()
    before = [
        (config, name, getattr(config, name))
        for config in configs
        for name in unbuilt(module)
        if getattr(config, name, None)
    ]
    try:
        for config, name, _ in before:
            setattr(config, name, 0)
        yield
    finally:
        for config, name, value in before:
            setattr(config, name, value)


def shrunken(config: PretrainedConfig, count: int, keep: Sequence[int]) -> dict[str, Any]:
    """The attributes that change when only the blocks at ``keep`` of ``count`` stay."""
    changes: dict[str, Any] = {}
    for name, value in vars(config).items():
        if name.startswith("_") or name in NOT_PER_BLOCK:
            continue
        new: Any
        if isinstance(value, (list, tuple)):
            new = type(value)(_entries(name, value, count, keep))
        elif name in LEADING_COUNTS and isinstance(value, int):
            new = _leading(value, count, keep)
        else:
            continue
        if new != value:
            changes[name] = new
    return changes | _overrides(config, keep) | {"num_hidden_layers": len(keep)}


def moved_images(config: PretrainedConfig, count: int, keep: Sequence[int]) -> dict[str, Any]:
    """The lists of places where images add, when only the blocks at ``keep`` of ``count`` stay.

    What was added before a block that goes is added before the next one that stays.

    Raises:
        ArchitectureError: None stays behind it, or two places would become one, which such a model
            cannot have.
    """
    lists = {name: vars(config).get(name) or [] for name in IMAGE_PLACES}
    numbers = sorted({_number(entry) for value in lists.values() for entry in value})
    new = {old: bisect_left(keep, old) + max(0, old - count) for old in numbers}
    inside = [new[old] for old in numbers if old < count]
    if len(set(inside)) < len(inside) or len(keep) in inside:
        raise ArchitectureError(
            f"images add before blocks {[old for old in numbers if old < count]}, which would be"
            f" {inside} of {len(keep)}: each must be a block of its own; keep one behind each"
        )
    moved = {
        name: [(*entry[:-1], new[entry[-1]]) if _is_pair(entry) else new[entry] for entry in value]
        for name, value in lists.items()
    }
    return {name: value for name, value in moved.items() if value != lists[name]}


def _number(entry: Any) -> int:
    return int(entry[-1] if _is_pair(entry) else entry)


def _is_pair(entry: Any) -> bool:
    return isinstance(entry, (list, tuple))


def _overrides(config: PretrainedConfig, keep: Sequence[int]) -> dict[str, Any]:
    """What single blocks have otherwise than the rest, under the numbers that they get."""
    before: Any = vars(config).get(OVERRIDES)
    if before is None:
        return {}
    old = before.per_layer_overrides
    new = {place: old[number] for place, number in enumerate(keep) if number in old}
    names = {name for one in new.values() for name in one} - {"skip"}
    changed = dataclasses.replace(before, per_layer_overrides=new, per_layer_attributes=names)
    return {} if changed == before else {OVERRIDES: changed}


def _entries(name: str, value: Sequence[Any], count: int, keep: Sequence[int]) -> Sequence[Any]:
    if _are_numbers(name, value, count):
        places = {old: new for new, old in enumerate(keep)}
        return [places[old] for old in value if old in places]
    if len(value) == count:
        return [value[old] for old in keep]
    return value


def _are_numbers(name: str, value: Sequence[Any], count: int) -> bool:
    """Ascending block numbers under a telling name; a per-block list of 0 and 1 is not that."""
    return (
        name.endswith(BLOCK_NUMBERS)
        and all(isinstance(item, int) and not isinstance(item, bool) for item in value)
        and all(0 <= item < count for item in value)
        and all(one < next_one for one, next_one in itertools.pairwise(value))
    )


def _leading(value: int, count: int, keep: Sequence[int]) -> int:
    """Blocks among the first ``value`` that stay; a value beyond the model's end means all."""
    return sum(old < min(value, count) for old in keep)
