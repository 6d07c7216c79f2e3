"""Taking units out: for a while or for good; the config and the block numbers follow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PretrainedConfig

from fusegpt.errors import ArchitectureError
from fusegpt.models.blocks import decoder_of
from fusegpt.models.model import Model
from fusegpt.models.structure.configs import moved_images, shrunken, text_configs
from fusegpt.models.sublayers import NUMBER_NAMES
from fusegpt.models.surgery.round_trip import check_round_trip
from fusegpt.models.surgery.sublayer_removal import Undo, remove_sublayers
from fusegpt.units import Unit

__all__ = ["Unit", "check_basis", "check_round_trip", "remove", "skip"]

COUNT_NAMES = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "n_layers",
    "first_kv_shared_layer_idx",
)
"""Names of counts of blocks that the modules above the blocks keep for themselves."""


def remove(model: Model, *units: Unit) -> None:
    """Take units out for good; config and block numbers follow.

    Args:
        model: Changed in place: ``module``, ``kept``, ``removed``, and ``fused`` without the
            removed units' entries. Unchanged when an error is raised.
        units: Remaining units; blocks, or attentions and mlps.

    Raises:
        ArchitectureError: The shortened config would not rebuild the shortened model (the
            message says where they differ), or a unit cannot go.
    """
    gone = {unit.index for unit in units if unit.kind == "block"}.intersection(model.kept)
    blocks = [model.block(index) for index in gone]
    _checked_cut(model, units)
    model.removed.extend(units)
    if model.streamed is not None:
        for block in blocks:
            model.streamed.forget(block)
    concerned = tuple(f"blocks.{unit.index}." for unit in units)
    for name in [n for n in model.fused if n.startswith(concerned) and model.is_gone(n)]:
        del model.fused[name]


@contextmanager
def skip(model: Model, units: Sequence[Unit]) -> Iterator[None]:
    """Take units out for a while: inside, the model is as after ``remove``, config included.

    Blocks keep their dense index; positions count the remaining ones.

    Raises:
        ArchitectureError: ``remove`` would refuse these units.
    """
    undo = _checked_cut(model, units)
    try:
        yield
    finally:
        _restore(undo)


def check_basis(model: Model) -> None:
    """Refuse a model whose blocks write another basis than they read, or share weights.

    Raises:
        ArchitectureError: It is one.
    """
    if getattr(model.module, "blocks_change_basis", False):
        raise ArchitectureError(
            f"{type(model.module).__name__}: each block reads the basis that the one before it"
            " writes, so none can go; remove blocks first, slice then"
        )
    if getattr(model.module, "blocks_share_weights", False):
        raise ArchitectureError(
            f"{type(model.module).__name__}: blocks compute with each other's weights, so none can"
            " go; remove blocks first, share then"
        )


def _checked_cut(model: Model, units: Sequence[Unit]) -> Undo:
    """Cut, and cut nothing when the config does not follow; each set of blocks is built once."""
    undo = _cut(model, units)
    remaining = (*model.kept, *sorted(model.lacking))
    try:
        if remaining not in model.checked:
            check_round_trip(model.module)
    except ArchitectureError as error:
        _restore(undo)
        raise ArchitectureError(f"without {', '.join(map(str, units))}: {error}") from error
    model.checked.add(remaining)
    return undo


def _cut(model: Model, units: Sequence[Unit]) -> Undo:
    """Shorten list, config and block numbers; return what brings them back."""
    check_basis(model)
    if any(unit.kind != "block" for unit in units):
        return _without_sublayers(model, units)
    gone = _dropped(model, units)
    keep = [place for place, index in enumerate(model.kept) if index not in gone]
    undo: Undo = []
    try:
        _renumber(model, keep, undo)
        _recount(model, len(keep), undo)
        for config in text_configs(model.module):
            _follow(model, config, shrunken(config, len(model.kept), keep), undo)
        whole = model.module.config
        _follow(model, whole, moved_images(whole, len(model.kept), keep), undo)
    except BaseException:
        _restore(undo)
        raise
    _shorten(model.block_list, keep, undo)
    _set(model, "kept", [model.kept[place] for place in keep], undo)
    return undo


def _without_sublayers(model: Model, units: Sequence[Unit]) -> Undo:
    """Take sublayers out; return what brings them back."""
    undo: Undo = []
    blocks = [str(unit) for unit in units if unit.kind == "block"]
    if blocks:
        raise ArchitectureError(f"{', '.join(blocks)}: cannot go together with sublayers")
    try:
        remove_sublayers(model, units, undo)
    except BaseException:
        _restore(undo)
        raise
    return undo


def _dropped(model: Model, units: Sequence[Unit]) -> set[int]:
    lacking = model.lacking
    if lacking:
        raise ArchitectureError(
            f"{units[0]}: blocks can only go from a model whose blocks are whole; without"
            f" sublayers are {sorted({unit.index for unit in lacking})}"
        )
    for unit in units:
        if unit.index not in model.kept:
            raise ArchitectureError(
                f"{unit}: must be a remaining block, remaining are {model.kept}"
            )
    gone = {unit.index for unit in units}
    assert len(gone) == len(units), units
    if len(gone) == len(model.kept):
        raise ArchitectureError(f"{len(gone)} blocks: at least one block must stay, got all")
    return gone


def _renumber(model: Model, keep: Sequence[int], undo: Undo) -> None:
    for place, old in enumerate(keep):
        for name, module in model.block_list[old].named_modules():
            for attribute in NUMBER_NAMES:
                number = module.__dict__.get(attribute)
                if not isinstance(number, int) or isinstance(number, bool):
                    continue
                if number != old:
                    raise ArchitectureError(
                        f"block {model.kept[old]}, {name or 'itself'}: {attribute} must be its "
                        f"place {old}, got {number}; block numbers of this kind cannot be kept"
                    )
                _set(module, attribute, place, undo)


def _recount(model: Model, count: int, undo: Undo) -> None:
    """Change the counts that the modules above the blocks keep for themselves."""
    inside = {id(child) for child in model.block_list.modules()}
    for holder in decoder_of(model.module).modules():
        for name in COUNT_NAMES if id(holder) not in inside else ():
            number = vars(holder).get(name)
            if type(number) is int and number == len(model.kept):
                _set(holder, name, count, undo)


def _follow(model: Model, config: PretrainedConfig, changes: dict[str, Any], undo: Undo) -> None:
    """Change the config, and the attributes of modules that are the config's own list."""
    holders = list(decoder_of(model.module).modules())
    for name, value in changes.items():
        before = getattr(config, name)
        _set(config, name, value, undo)
        for holder in holders if isinstance(before, list) else []:
            for attribute in [key for key, held in vars(holder).items() if held is before]:
                _set(holder, attribute, value, undo)


def _shorten(blocks: nn.ModuleList, keep: Sequence[int], undo: Undo) -> None:
    """Change the list object itself, for its owner may hold it under several names."""
    before = {str(place): block for place, block in enumerate(blocks)}

    def fill(entries: dict[str, nn.Module]) -> None:
        blocks._modules.clear()
        blocks._modules.update(entries)

    fill({str(place): before[str(old)] for place, old in enumerate(keep)})
    undo.append(lambda: fill(before))


def _set(target: object, name: str, value: object, undo: Undo) -> None:
    before = getattr(target, name)
    setattr(target, name, value)
    undo.append(lambda: setattr(target, name, before))


def _restore(undo: Undo) -> None:
    while undo:
        undo.pop()()
