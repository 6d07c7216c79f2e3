"""Where a tuning's tensors are while it runs, as memory allows; results are the same bits.

Where it was asked for, the tuned blocks and the forming of their weights are compiled besides,
which rounds otherwise.
"""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fusegpt.disk import room_for, take_room
from fusegpt.errors import ConfigError, first_line
from fusegpt.free_memory import free_bytes
from fusegpt.models.structure.calls import Call
from fusegpt.models.structure.replay import run_blocks

__all__ = ["Memory", "States", "compiled", "compiles", "runner", "saved_bytes", "using"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

Memory = Literal["auto", "spare", "keep"]
"""``keep``: all tensors stay where they are quickest. ``spare``: states lie in a file, and what a
block computes is computed again on the way back. ``auto``: each of the two where memory is short.
"""

Place = Literal["device", "memory", "file"]

SHARE = 0.5
"""Part of the free memory that states, or activations, may take before memory counts as short."""
GIB = 2**30

_asked: ContextVar[Memory] = ContextVar("memory", default="auto")
_compiles: ContextVar[bool] = ContextVar("compiles", default=False)
GRAPHS = 64
"""The most graphs that a kind of block may be compiled into."""


@contextlib.contextmanager
def using(memory: Memory = "auto", *, compiling: bool = False) -> Iterator[None]:
    """Let tunings inside use memory so, and run compiled blocks or not.

    Raises:
        ConfigError: The blocks cannot be compiled here.
    """
    before = _asked.set(memory), _compiles.set(compiling)
    try:
        with _refusing() if compiling else contextlib.nullcontext():
            yield
    finally:
        _asked.reset(before[0])
        _compiles.reset(before[1])


def compiles() -> bool:
    """Return whether the blocks of tunings are compiled here."""
    return _compiles.get()


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Return what computes the same as a function, compiled where that was asked for."""
    return torch.compile(function, dynamic=False) if compiles() else function


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Say in one line what cannot be compiled; nothing goes on uncompiled by itself."""
    from torch import _dynamo

    try:
        with (
            warnings.catch_warnings(),
            _dynamo.config.patch(recompile_limit=GRAPHS, fail_on_recompile_limit_hit=True),
        ):
            warnings.filterwarnings("ignore", "The .grad attribute")  # of every hidden state
            yield
    except (_dynamo.exc.TorchDynamoException, _dynamo.exc.FailOnRecompileLimitHit) as error:
        said = first_line(getattr(error, "inner_exception", error))
        raise ConfigError(
            f"--compile: must be left out here, this model or machine cannot do it ({said})"
        ) from error


class States:
    """What enters and what should leave the tuned blocks, batch by batch.

    Args:
        total: Bytes that all batches will take.
        device: Where they are used.
        directory: Where a file may lie; None: nowhere. Its name is gone as soon as it is made, so
            no end of the process leaves it behind.
    """

    def __init__(self, total: int, device: torch.device, directory: Path | None) -> None:
        self.device, self.directory = device, directory
        self.place = _place(total, device, directory)
        self._kept: list[tuple[Tensor, ...]] = []
        self._ahead: dict[int, tuple[tuple[Tensor, ...], Any]] = {}
        ahead = device.type == "cuda" and self.place != "device"
        self._stream = torch.cuda.Stream(device) if ahead else None
        if self.place == "file" or ahead:
            where = {"file": f"a file in {directory}", "memory": "main memory"}[self.place]
            logger.info("hidden states, %.3g GiB, are kept in %s", total / GIB, where)

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, *states: Tensor) -> None:
        """Keep the states of one more batch."""
        self._kept.append(tuple(self._stored(state) for state in states))

    def get(self, number: int) -> tuple[Tensor, ...]:
        """Return the states of a batch on the device; the next batch's are copied meanwhile."""
        if self._stream is None:
            return tuple(state.to(self.device) for state in self._kept[number])
        states, copied = self._ahead[number] if number in self._ahead else self._copy(number)
        following = (number + 1) % len(self._kept)
        self._ahead = {following: self._copy(following)}
        current = torch.cuda.current_stream(self.device)
        current.wait_event(copied)
        for state in states:
            state.record_stream(current)
        return states

    def _copy(self, number: int) -> tuple[tuple[Tensor, ...], Any]:
        with torch.cuda.stream(self._stream):
            states = tuple(s.to(self.device, non_blocking=True) for s in self._kept[number])
            return states, torch.cuda.current_stream(self.device).record_event()

    def _stored(self, state: Tensor) -> Tensor:
        if self.place == "file":
            assert self.directory is not None
            return _on_disk(state, self.directory)
        if self.place == "device":
            return state.to(self.device)
        kept = state.cpu()
        return kept if self._stream is None else kept.pin_memory()


def _place(total: int, device: torch.device, directory: Path | None) -> Place:
    """Where states go; a file only where there is a directory for it."""
    asked = _asked.get()
    if asked == "spare" and directory is not None:
        return "file"
    on_device = device.type == "cuda" and asked != "spare"
    if on_device and (asked == "keep" or total <= SHARE * free_bytes(device)):
        return "device"
    short = asked == "auto" and total > SHARE * free_bytes(torch.device("cpu"))
    return "file" if short and directory is not None else "memory"


def _on_disk(state: Tensor, directory: Path) -> Tensor:
    """Copy a tensor into a memory-mapped file that has no name any more.

    Raises:
        ArtifactError: The disk has no room for it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"states.tmp-{uuid.uuid4().hex}"
    size = max(1, state.numel() * state.element_size())
    amount = f"{size / GIB:.3g} GiB more of hidden states"
    try:
        with room_for(amount, directory, "free some, or give --memory keep"):
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                take_room(descriptor, size)
            finally:
                os.close(descriptor)
            mapped = torch.from_file(str(file), shared=True, size=state.numel(), dtype=state.dtype)
    finally:
        file.unlink(missing_ok=True)
    mapped = mapped.view(state.shape)
    mapped.copy_(state)
    return mapped


Block = Callable[..., Any]
Run = Callable[[Sequence[Call], Tensor], Tensor]


def runner(blocks: Sequence[nn.Module], device: torch.device, label: str) -> Run:
    """Return what runs blocks one after the other, differentiably.

    Where it was asked for they are compiled, but only for gradients. Where their activations do not
    fit, each block's are computed again on the way back, never those of a part of a batch: a loss
    may depend on which sequences share a batch. Which of the two it is follows from the first batch
    whose gradients are asked for.

    Args:
        blocks: The blocks.
        device: Where they are.
        label: Names the work in the log.
    """
    chosen: list[bool] = []
    trained = [compiled(block.forward) for block in blocks] if compiles() else blocks

    def run(calls: Sequence[Call], hidden: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return run_blocks(blocks, calls, hidden)
        if not chosen:
            chosen.append(_recompute(blocks, calls, hidden, device, label))
        return (_run_twice if chosen[0] else run_blocks)(trained, calls, hidden)

    return run


def _run_twice(blocks: Sequence[Block], calls: Sequence[Call], hidden: Tensor) -> Tensor:
    for block, call in zip(blocks, calls, strict=True):
        hidden = checkpoint(call.run, block, hidden, use_reentrant=False, preserve_rng_state=False)
    return hidden


def _recompute(
    blocks: Sequence[nn.Module],
    calls: Sequence[Call],
    hidden: Tensor,
    device: torch.device,
    label: str,
) -> bool:
    """Whether what the blocks would keep for the way back takes more than memory has."""
    if _asked.get() != "auto":
        return _asked.get() == "spare"
    one = next(place for place, call in enumerate(calls) if call.hidden_key is not None)
    needed = len(blocks) * saved_bytes(lambda: calls[one].run(blocks[one], hidden), blocks[one])
    free = free_bytes(device)
    if needed <= SHARE * free:
        return False
    logger.info(
        "%s: activations of %d blocks would take %.3g GiB of %.3g free; each block's are computed"
        " again on the way back",
        *(label, len(blocks), needed / GIB, free / GIB),
    )
    return True


def saved_bytes(run: Callable[[], Any], module: nn.Module) -> int:
    """Count the bytes that a computation keeps for the way back, without the module's own weights.

    Args:
        run: The computation; what it returns is dropped.
        module: Whose parameters and buffers are there anyhow.
    """
    own = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    sizes: dict[int, int] = {}
    held: list[Tensor] = []  # so that no address is used twice

    def note(tensor: Tensor) -> Tensor:
        # Saved as it is, an output would hold the graph that holds it, unseen by the collector.
        saved = tensor.detach()
        storage = saved.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            held.append(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(sizes.values())
