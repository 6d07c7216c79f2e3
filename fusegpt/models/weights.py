"""Where a model's weights come from: read once for good, or block by block while blocks run.

A model is built without memory; each of its tensors has a place on disk, in a file of the dense
model or in the delta of the last step that changed it. Resident weights are read once. Streamed
ones (``fusegpt.models.streamed``) are read when their block is about to run and forgotten
afterwards; what is not in a block (embeddings, last norm, head) stays. Both are the same values at
the same alignment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fusegpt.models.stored import Joined, Stored

__all__ = [
    "Place",
    "Places",
    "Values",
    "fill",
    "kept_as",
    "move_buffers",
    "own_memory",
    "owner_of",
    "places_of",
    "put",
    "read",
    "size_in_memory",
    "storage_of",
]

Place = Stored | Joined
Places = dict[nn.Module, dict[str, Place]]
"""Where the tensors of a module are, by module and name in it; tied ones have the same place."""
Values = list[tuple[nn.Module, str, Tensor]]


def places_of(module: nn.Module, stored: Mapping[int, Place]) -> Places | None:
    """Find the place of every tensor of a model that was built without memory.

    Args:
        module: Those of its tensors that have values already keep them.
        stored: The tensors on disk, by ``storage_of`` what stands for them in the module.

    Returns:
        None where the files hold neither the tensors as the model computes with them, one by one,
        nor parts of them.
    """
    found: Places = {}
    for owner in module.modules():
        for leaf, tensor in _leaves(owner):
            if tensor.device.type != "meta":
                continue
            place = stored.get(storage_of(tensor))
            if place is None or place.shape != tensor.shape:
                return None
            found.setdefault(owner, {})[leaf] = place
    return found


def owner_of(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that holds what has a name below ``module``, and its name there."""
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


def storage_of(tensor: Tensor) -> int:
    """Return what tells the memory of tensors apart, also where there is none behind it."""
    return int(tensor.untyped_storage()._cdata)


def read(module: nn.Module, places: Places) -> Values:
    """Read every tensor of a module that has a place, in the dtype that the model has for it.

    A tensor at a time is in memory twice, where its dtype on disk is another.
    """
    known: dict[Place, Tensor] = {}
    found: Values = []
    for owner in module.modules():
        for leaf, place in places.get(owner, {}).items():
            if place not in known:
                known[place] = place.read().to(getattr(owner, leaf).dtype)
            found.append((owner, leaf, known[place]))
    return found


def fill(modules: Iterable[nn.Module], places: Places, device: torch.device) -> int:
    """Give every tensor that has a place its value, for good; tied ones are one tensor.

    Args:
        modules: Their own tensors, not those of what is below them.
        places: By module and name in it.
        device: Where the values go.

    Returns:
        Bytes that were read.
    """
    known: dict[Place, Tensor] = {}
    for owner in modules:
        for leaf, place in places.get(owner, {}).items():
            if place not in known:
                value = place.read().to(getattr(owner, leaf).dtype).to(device)
                known[place] = kept_as(owner, leaf, value)
            put(owner, leaf, known[place])
    return sum(place.nbytes for place in known)


def size_in_memory(module: nn.Module, places: Places) -> int:
    """Bytes that the tensors of a module take once they are read."""
    sizes = {
        place: getattr(owner, leaf).nbytes
        for owner in module.modules()
        for leaf, place in places.get(owner, {}).items()
    }
    return sum(sizes.values())


def own_memory(module: nn.Module) -> None:
    """Copy every tensor out of the file mapping; tied weights stay tied."""
    copies: dict[tuple[Any, ...], Tensor] = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() == 0 or key not in copies:
            copies[key] = tensor.data.clone()
        tensor.data = copies[key]


def move_buffers(module: nn.Module, device: torch.device) -> None:
    """Move what a module holds besides its weights."""
    for owner in module.modules():
        for leaf, tensor in _leaves(owner):
            if tensor.device.type != "meta" and tensor.device != device:
                put(owner, leaf, kept_as(owner, leaf, tensor.to(device)))


def _leaves(owner: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in [*owner._parameters.items(), *owner._buffers.items()]:
        if tensor is not None:
            yield name, tensor


def kept_as(owner: nn.Module, leaf: str, value: Tensor) -> Tensor:
    """Return a value as the module keeps it under a name: as a parameter, or as it is."""
    return nn.Parameter(value, requires_grad=False) if leaf in owner._parameters else value


def put(owner: nn.Module, leaf: str, value: Tensor) -> None:
    """Give a tensor of a module, by its name there, another value; no shape is compared."""
    table: dict[str, Any] = owner._parameters if leaf in owner._parameters else owner._buffers
    table[leaf] = value
