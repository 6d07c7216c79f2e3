"""Taking attentions and mlps out of their blocks, so that the configuration alone says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fusegpt.errors import ArchitectureError
from fusegpt.models.model import Model
from fusegpt.models.structure.branches import find_branches
from fusegpt.models.sublayers import (
    attention_kinds,
    cache_places,
    numbers,
    replacements,
    sublayer_classes,
)
from fusegpt.units import KINDS, Unit

__all__ = [
    "check_sublayers",
    "last_blocks_of_their_kind",
    "last_of_their_kind",
    "remove_sublayers",
]

Undo = list[Callable[[], None]]


def remove_sublayers(model: Model, units: Sequence[Unit], undo: Undo) -> None:
    """Take sublayers out; classes, configuration and places in the cache follow.

    Args:
        model: Its module and configuration are changed.
        units: Remaining attentions and mlps.
        undo: Gains what brings everything back, step by step.

    Raises:
        ArchitectureError: A unit is not there, cannot be told apart, or is the last attention of
            its kind.
    """
    check_sublayers(model, units)
    before = _entry(model)
    after: dict[str, Any] = {**before, **{kind: dict(before[kind]) for kind in KINDS["mixed"]}}
    for unit in units:
        sublayer = find_branches(model, unit.index).sublayers[unit.kind]
        place, block = model.position(unit.index), model.block(unit.index)
        after[unit.kind][str(place)] = sublayer.to_json()
        for name, stand_in in replacements(sublayer.to_json()).items():
            _put(block._modules, name, stand_in, undo)
    for kind in KINDS["mixed"]:
        after[kind] = dict(sorted(after[kind].items(), key=lambda entry: int(entry[0])))
    _number(model, before["attention"], after["attention"], undo)
    config, module = model.module.config, model.module
    try:
        classes = sublayer_classes(before["base_model_type"], before["base_architecture"])
    except ValueError as error:  # a model whose code lies in its directory
        raise ArchitectureError(f"{units[0]}: only whole blocks can go; {error}") from error
    _put(config.__dict__, "removed_sublayers", after, undo)
    for target, new in ((config, classes[0]), (module, classes[1])):
        old = type(target)
        object.__setattr__(target, "__class__", new)
        undo.append(lambda t=target, o=old: object.__setattr__(t, "__class__", o))  # type: ignore[misc]


def check_sublayers(model: Model, units: Sequence[Unit]) -> None:
    """Refuse sublayers that cannot be taken out together; see ``remove_sublayers``."""
    lacking = model.lacking
    for unit in units:
        if unit.index not in model.kept or unit in lacking:
            raise ArchitectureError(
                f"{unit}: must be a remaining sublayer, removed are {_names(lacking)}"
            )
        if unit.kind not in find_branches(model, unit.index).sublayers:
            raise ArchitectureError(f"{unit}: this block has none")
    last = last_of_their_kind(model, units)
    if last:
        raise ArchitectureError(
            f"{_names(last)}: the last attention of its kind must stay; caches and masks go by it"
        )


def last_of_their_kind(model: Model, units: Sequence[Unit]) -> list[Unit]:
    """Return the attentions among ``units`` without which none of their kind would be left."""
    kinds = dict(
        zip(model.kept, attention_kinds(model.module.config, len(model.kept)), strict=True)
    )
    left = Counter(kinds[unit.index] for unit in model.units("attention"))
    gone = [unit for unit in units if unit.kind == "attention"]
    left.subtract(kinds[unit.index] for unit in gone)
    return [unit for unit in gone if left[kinds[unit.index]] <= 0]


def last_blocks_of_their_kind(model: Model, blocks: Sequence[Unit]) -> list[Unit]:
    """Return the blocks among ``blocks`` without which none of their kind would be left.

    Kinds are those that the configuration names (attention, sliding, linear, mamba); caches and
    masks of hybrid models go by them.
    """
    config = model.text_config
    named = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)
    if not named or len(named) != len(model.kept):
        return []
    kinds = dict(zip(model.kept, named, strict=True))
    left = Counter(kinds.values())
    left.subtract(kinds[unit.index] for unit in blocks)
    return [unit for unit in blocks if left[kinds[unit.index]] <= 0]


def _entry(model: Model) -> dict[str, Any]:
    """What the configuration says is removed, as yet perhaps nothing."""
    config = model.module.config
    there = getattr(config, "removed_sublayers", None)
    if there:
        return dict(there)
    names = {id(child): name for name, child in model.module.named_modules()}
    return {
        "base_model_type": config.model_type,
        "base_architecture": type(model.module).__name__,
        "blocks": names[id(model.block_list)],
        "attention": {},
        "mlp": {},
    }


def _number(model: Model, before: Mapping[str, Any], after: Mapping[str, Any], undo: Undo) -> None:
    """Let the remaining attentions take the first places of their kind in the cache."""
    kinds = attention_kinds(model.module.config, len(model.kept))
    old, new = (cache_places(kinds, {int(p) for p in gone}) for gone in (before, after))
    for place, block in enumerate(model.block_list):
        for holder, name in list(numbers(block, old.get(place, place))):
            _put(holder.__dict__, name, new.get(place, place), undo)


def _put(target: Any, name: str, value: Any, undo: Undo) -> None:
    """Set an entry of a dictionary."""
    if name in target:
        before = target[name]
        undo.append(lambda: target.__setitem__(name, before))
    else:
        undo.append(lambda: target.__delitem__(name))
    target[name] = value


def _names(units: Any) -> str:
    return ", ".join(map(str, sorted(units))) or "none"
