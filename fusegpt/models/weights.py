"""Where a model's weights come from: read once for good, or block by block while blocks run.

A model is built without memory; each of its tensors has a place on disk, in a file of the dense
model or in the delta of the last step that changed it. Resident weights are read once. Streamed
ones are read when their block is about to run and forgotten afterwards; what is not in a block
(embeddings, last norm, head) stays. Both are the same values at the same alignment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fusegpt.models.stored import Stored

__all__ = [
    "Places",
    "StreamedBlocks",
    "fill",
    "move_buffers",
    "own_memory",
    "places_of",
    "size_in_memory",
    "storage_of",
]

Places = dict[nn.Module, dict[str, Stored]]
"""Where the tensors of a module are, by module and name in it; tied ones have the same place."""
Values = list[tuple[nn.Module, str, Tensor]]


def places_of(module: nn.Module, stored: Mapping[int, Stored]) -> Places | None:
    """Find the place of every tensor of a model that was built without memory.

    Args:
        module: Those of its tensors that have values already keep them.
        stored: The tensors on disk, by ``storage_of`` what stands for them in the module.

    Returns:
        None where the files do not hold the tensors as the model computes with them, one by one.
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


def storage_of(tensor: Tensor) -> int:
    """Return what tells the memory of tensors apart, also where there is none behind it."""
    return int(tensor.untyped_storage()._cdata)


def read(module: nn.Module, places: Places) -> Values:
    """Read every tensor of a module that has a place, in the dtype that the model has for it.

    A tensor at a time is in memory twice, where its dtype on disk is another.
    """
    known: dict[Stored, Tensor] = {}
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
    known: dict[Stored, Tensor] = {}
    for owner in modules:
        for leaf, place in places.get(owner, {}).items():
            if place not in known:
                value = place.read().to(getattr(owner, leaf).dtype).to(device)
                known[place] = _own(owner, leaf, value)
            _put(owner, leaf, known[place])
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
                _put(owner, leaf, _own(owner, leaf, tensor.to(device)))


class StreamedBlocks:
    """Blocks whose weights are in memory only while somebody needs them.

    Args:
        places: Where the tensors are, by module and name in it.
        device: Where blocks run.
        memory: Bytes that the hidden states of batches which go through together may take.

    Attributes:
        bytes_read: Bytes that were read so far.
    """

    def __init__(self, places: Places, device: torch.device, memory: int) -> None:
        self.places = places
        self.device = device
        self.memory = memory
        self.bytes_read = 0
        self._needed: dict[nn.Module, int] = {}
        self._absent: dict[nn.Module, Values] = {}
        self._ahead: dict[nn.Module, Future[Values]] = {}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="weights")

    def attach(self, blocks: Iterable[nn.Module]) -> None:
        """Let blocks read their weights by themselves when they run."""

        def before(block: nn.Module, *_: Any) -> None:
            self.enter(block)

        def after(block: nn.Module, *_: Any) -> None:
            self.leave(block)

        for block in blocks:
            block.register_forward_pre_hook(before)
            block.register_forward_hook(after, always_call=True)

    @contextmanager
    def present(self, block: nn.Module, ahead: nn.Module | None = None) -> Iterator[None]:
        """Inside, a block's weights are there, however often it runs.

        Args:
            block: One of the blocks.
            ahead: The block that is needed next, which is read meanwhile.
        """
        self.enter(block)
        try:
            if ahead is not None and ahead not in self._ahead and not self._needed.get(ahead):
                self._ahead[ahead] = self._reader.submit(read, ahead, self.places)
            yield
        finally:
            self.leave(block)

    def enter(self, block: nn.Module) -> None:
        """Make sure that a block's weights are there until ``leave`` is called as often."""
        if not self._needed.get(block):
            early = self._ahead.pop(block, None)
            values = read(block, self.places) if early is None else early.result()
            self._absent[block] = [(owner, leaf, getattr(owner, leaf)) for owner, leaf, _ in values]
            for owner, leaf, value in values:
                _put(owner, leaf, _own(owner, leaf, value.to(self.device)))
            own = {self.places[owner][leaf] for owner, leaf, _ in values}
            self.bytes_read += sum(place.nbytes for place in own)
        self._needed[block] = self._needed.get(block, 0) + 1

    def leave(self, block: nn.Module) -> None:
        """Forget a block's weights when nobody needs them any more."""
        if block not in self._needed:  # it could not be read
            return
        self._needed[block] -= 1
        if not self._needed[block]:
            del self._needed[block]
            for owner, leaf, tensor in self._absent.pop(block):
                _put(owner, leaf, tensor)

    def let_go(self) -> None:
        """Forget the weights of every block that is held."""
        for block in list(self._needed):
            self._needed[block] = 1
            self.leave(block)

    def value(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the model; one that is not in memory is read, and kept by nobody.

        Args:
            tensor: From the state of the model, or what shares its memory.
        """
        if tensor.device.type != "meta":
            return tensor
        wanted = storage_of(tensor)
        return next(
            place.read().to(tensor.dtype)
            for owner, leaves in self.places.items()
            for leaf, place in leaves.items()
            if storage_of(getattr(owner, leaf)) == wanted
        )

    def forget(self, block: nn.Module) -> None:
        """Keep nothing of a block that left the model."""
        for table in (self._needed, self._absent, self._ahead):
            table.pop(block, None)
        for owner in block.modules():
            self.places.pop(owner, None)


def _leaves(owner: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in [*owner._parameters.items(), *owner._buffers.items()]:
        if tensor is not None:
            yield name, tensor


def _own(owner: nn.Module, leaf: str, value: Tensor) -> Tensor:
    return nn.Parameter(value, requires_grad=False) if leaf in owner._parameters else value


def _put(owner: nn.Module, leaf: str, value: Tensor) -> None:
    table: dict[str, Any] = owner._parameters if leaf in owner._parameters else owner._buffers
    table[leaf] = value
