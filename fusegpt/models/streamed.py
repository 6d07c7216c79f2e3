"""Blocks whose weights are read when they run and forgotten afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fusegpt.models.weights import Places, Values, kept_as, put, read, storage_of

__all__ = ["StreamedBlocks"]


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
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}
        self._whole: tuple[int, Tensor] | None = None
        self._needed: dict[nn.Module, int] = {}
        self._absent: dict[nn.Module, Values] = {}
        self._ahead: dict[nn.Module, Future[tuple[Values, Any]]] = {}
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
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
                self._ahead[ahead] = self._reader.submit(self._fetch, ahead)
            yield
        finally:
            self.leave(block)

    def enter(self, block: nn.Module) -> None:
        """Make sure that a block's weights are there until ``leave`` is called as often."""
        if not self._needed.get(block):
            early = self._ahead.pop(block, None)
            values, copied = self._fetch(block) if early is None else early.result()
            if copied is not None:
                current = torch.cuda.current_stream(self.device)
                current.wait_event(copied)
                for _, _, value in values:
                    value.record_stream(current)
            self._absent[block] = [(owner, leaf, getattr(owner, leaf)) for owner, leaf, _ in values]
            for owner, leaf, value in values:
                put(owner, leaf, kept_as(owner, leaf, value))
            own = {self.places[owner][leaf] for owner, leaf, _ in values}
            self.bytes_read += sum(place.nbytes for place in own)
        self._needed[block] = self._needed.get(block, 0) + 1

    def _fetch(self, block: nn.Module) -> tuple[Values, Any]:
        """Read a block to where it runs; to a GPU from pinned memory, beside what it computes.

        Returns:
            The values, and what to wait for before they are used; None: nothing.
        """
        values = read(block, self.places)
        if self._stream is None:
            return [(owner, leaf, value.to(self.device)) for owner, leaf, value in values], None
        with torch.cuda.stream(self._stream):
            moved = {
                id(value): value.pin_memory().to(self.device, non_blocking=True)
                for _, _, value in values
            }
            copied = self._stream.record_event()
        return [(owner, leaf, moved[id(value)]) for owner, leaf, value in values], copied

    def leave(self, block: nn.Module) -> None:
        """Forget a block's weights when nobody needs them any more."""
        if block not in self._needed:  # it could not be read
            return
        self._needed[block] -= 1
        if not self._needed[block]:
            del self._needed[block]
            for owner, leaf, tensor in self._absent.pop(block):
                put(owner, leaf, tensor)

    def let_go(self) -> None:
        """Forget the weights of every block that is held, or was read ahead."""
        self._ahead.clear()
        for block in list(self._needed):
            self._needed[block] = 1
            self.leave(block)

    def value(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the model; one that is not in memory is read.

        Args:
            tensor: From the state of the model, or a part of it. The whole that a part was taken
                from stays in memory until another one is read.
        """
        if tensor.device.type != "meta":
            return tensor
        wanted = storage_of(tensor)
        if self._whole is None or self._whole[0] != wanted:
            self._whole = None
            whole = self._read(wanted)
            if whole.shape == tensor.shape:
                return whole
            self._whole = wanted, whole
        return self._whole[1].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    def _read(self, wanted: int) -> Tensor:
        """Read a tensor by ``storage_of`` what stands for it, or for a copy of a part of it."""
        if wanted in self._copies:
            return self.value(self._copies[wanted][1]).contiguous()
        return next(
            place.read().to(getattr(owner, leaf).dtype)
            for owner, leaves in self.places.items()
            for leaf, place in leaves.items()
            if storage_of(getattr(owner, leaf)) == wanted
        )

    @contextmanager
    def noting_copies(self) -> Iterator[None]:
        """Inside, copies of what stands for tensors stand for copies of these: ``value`` reads."""
        try:
            with _Copies(self._copies):
                yield
        finally:
            self._copies.clear()

    def forget(self, block: nn.Module) -> None:
        """Keep nothing of a block that left the model."""
        for table in (self._needed, self._absent, self._ahead):
            table.pop(block, None)
        for owner in block.modules():
            self.places.pop(owner, None)


class _Copies(TorchDispatchMode):
    """Inside, copies of tensors without memory are noted with what they are of."""

    def __init__(self, copies: dict[int, tuple[Tensor, Tensor]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._copies = copies

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.clone.default and made.device.type == "meta":
            self._copies[storage_of(made)] = made, args[0]
        return made
