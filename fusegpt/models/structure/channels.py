"""Heads and channels: the parts of a branch that compute side by side, with their weights.

The values that a branch's last matrix reads fall into parts: of an attention, the heads that share
keys; of an mlp, its channels. Which rows of the other matrices make a part is guessed from their
shapes and proven: exchanging parts everywhere at once must not change what the block computes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fusegpt.errors import ArchitectureError
from fusegpt.models.model import Model
from fusegpt.models.structure.branches import find_branches, plain_ids
from fusegpt.models.structure.replay import record
from fusegpt.runtime import generator

__all__ = ["Channels", "Place", "find_channels"]

TOLERANCE = 0.02
"""Greatest change that exchanging parts may make, relative to what the block adds: rounding."""
TOKENS = (2, 5)
"""Batch size and length of the token ids that a guess is tried on."""


@dataclass(frozen=True)
class Place:
    """Where the parts lie in one parameter.

    Attributes:
        axis: The parameter's axis along which they lie.
        layout: ``[parts, size]`` int64: the positions of each part.
    """

    axis: int
    layout: Tensor


@dataclass(frozen=True)
class Channels:
    """The parts of one branch of a block.

    Attributes:
        count: How many there are.
        last: The matrix that reads all of them, by the name of its module in the block.
        places: Parameters that the parts divide among them, by their names in the block.
    """

    count: int
    last: str
    places: Mapping[str, Place]


def find_channels(model: Model, index: int, kind: str) -> Channels:
    """Return the parts of the attention or of the mlp of a remaining block.

    Args:
        model: Unchanged.
        index: Dense index of the block.
        kind: ``attention`` or ``mlp``.

    Raises:
        ArchitectureError: The branch has no such parts, e.g. because experts share its work, or
            its heads are told apart by their numbers.
    """
    where = f"{type(model.module).__name__}: the {kind} of block {index}"
    branch = find_branches(model, index).sublayers.get(kind)
    if branch is None:
        raise ArchitectureError(f"{where} was removed; it has no channels to choose from")
    block, inside = model.block(index), tuple(f"{name}." for name in branch.names)
    linear = {
        name: module
        for name, module in block.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and f"{name}.".startswith(inside)
    }
    own = {name: p for name, p in block.named_parameters() if name.startswith(inside)}
    width = model.text_config.hidden_size
    ends = [name for name, module in linear.items() if _sides(module)[1] == width]
    matrices = {f"{name}.weight" for name in linear}
    if not ends or any(p.dim() > 1 and name not in matrices for name, p in own.items()):
        raise ArchitectureError(f"{where} is not made of plain matrices, so it has no channels")
    last = ends[-1]
    parts = _parts(model, kind, _sides(linear[last])[0], where)
    fixed = _read(linear, last, parts[0])
    open_places = _guesses({n: m for n, m in linear.items() if n != last}, parts, where)
    others = {name: p for name, p in own.items() if _module(name) not in linear}
    open_places |= {(n,): _vector(p, parts) for n, p in others.items() if _vector(p, parts)}
    for chosen in itertools.product(*open_places.values()):
        places = dict(fixed)
        for names, layout in zip(open_places, chosen, strict=True):
            if layout is not None:
                places |= {n: Place(_axis(block, n), layout) for n in names}
        found = Channels(parts[0], last, places)
        if _exchangeable(model, index, found):
            return found
    raise ArchitectureError(
        f"{where} computes something else when its heads or channels change places; they cannot be"
        " chosen one by one"
    )


def _parts(model: Model, kind: str, read: int, where: str) -> list[int]:
    """Return the number of parts, then how many rows each matrix that makes them may have."""
    if kind == "mlp":
        return [read, read, read]
    config = model.text_config.to_dict()

    def get(*names: str) -> int:
        return next((int(config[name]) for name in names if config.get(name)), 0)

    heads = get("num_attention_heads", "n_head", "num_heads", "n_heads")
    if not heads or read % heads:
        raise ArchitectureError(f"{where} has no heads that its last matrix reads side by side")
    groups = get("num_key_value_heads", "num_kv_heads") or heads
    keys = read // heads * groups
    return [groups, read, keys, keys]


def _sides(module: nn.Module) -> tuple[int, int]:
    """Return how many values a linear layer reads and writes."""
    rows, columns = module.get_parameter("weight").shape
    return (rows, columns) if isinstance(module, Conv1D) else (columns, rows)


def _module(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _axis(block: nn.Module, name: str) -> int:
    """Return the axis of what a parameter's module writes."""
    transposed = isinstance(block.get_submodule(_module(name)), Conv1D)
    return int(transposed and block.get_parameter(name).dim() > 1)


def _read(linear: Mapping[str, nn.Module], last: str, count: int) -> dict[str, Place]:
    """Return the place of the parts in the matrix that reads them."""
    axis = 0 if isinstance(linear[last], Conv1D) else 1
    layout = torch.arange(_sides(linear[last])[0]).view(count, -1)
    return {f"{last}.weight": Place(axis, layout)}


def _guesses(
    linear: Mapping[str, nn.Module], parts: list[int], where: str
) -> dict[tuple[str, ...], list[Tensor | None]]:
    """Return where the parts may lie in the matrices that make them, by names of parameters."""
    count, sizes = parts[0], parts[1:]
    found: dict[tuple[str, ...], list[Tensor | None]] = {}
    for name, module in linear.items():
        rows = _sides(module)[1]
        packed = [
            torch.cat([piece.view(count, -1) for piece in torch.arange(rows).split(some)], dim=1)
            for some in (sizes, sizes[:1] * 3)
            if rows == sum(some)
        ]
        whole = [torch.arange(rows).view(count, -1)] if rows in (*sizes, sum(sizes)) else []
        if not packed and not whole:
            raise ArchitectureError(
                f"{where} has a matrix, {name}, with {rows} outputs, which are no heads or channels"
                f" of it (of {' or '.join(map(str, sorted(set(sizes))))})"
            )
        biased = getattr(module, "bias", None) is not None
        found[(f"{name}.weight", f"{name}.bias")[: 1 + biased]] = [*packed, *whole]
    return found


def _vector(parameter: nn.Parameter, parts: list[int]) -> list[Tensor | None]:
    """Return where the parts may lie in a norm or the like: nowhere, or one after the other."""
    count, size = parts[0], parameter.numel()
    if parameter.dim() != 1 or size < count or size % count or count == 1:
        return []
    return [None, torch.arange(size).view(count, -1)]


@torch.no_grad()
def _exchangeable(model: Model, index: int, channels: Channels) -> bool:
    """Whether exchanging the parts leaves what a block computes."""
    place, block = model.position(index), model.block(index)
    seen = record(model, plain_ids(model, *TOKENS), place, place)
    with _exchanged(block, channels):
        other = seen.calls[0].run(block, seen.hidden_in)
    plain, added = seen.hidden_out.double(), seen.hidden_out.double() - seen.hidden_in.double()
    change = (other.double() - plain).square().mean().sqrt()
    return bool(change <= TOLERANCE * added.square().mean().sqrt())


@contextmanager
def _exchanged(block: nn.Module, channels: Channels) -> Iterator[Any]:
    """Inside, the parts have changed places."""
    order = torch.randperm(channels.count, generator=generator("exchange"))
    kept = {name: block.get_parameter(name).clone() for name in channels.places}
    try:
        for name, place in channels.places.items():
            source, target = place.layout[order].flatten(), place.layout.flatten()
            values = kept[name].index_select(place.axis, source.to(kept[name].device))
            block.get_parameter(name).index_copy_(place.axis, target.to(values.device), values)
        yield
    finally:
        for name, value in kept.items():
            block.get_parameter(name).copy_(value)
