"""Passes through the blocks, one block after the other, with all batches at each of them.

A model whose weights are in memory runs batch by batch. One whose blocks are read when they run
takes many batches, and whatever else goes through a block, through each block together: then its
weights are read once for all of them. The calls, their inputs and their shapes are the same either
way, and so are the results, to the last bit on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fusegpt.errors import ArchitectureError
from fusegpt.models.model import Model
from fusegpt.models.structure.calls import Call, same_calls, share_calls, take_hidden
from fusegpt.models.structure.replay import (
    Injector,
    Recording,
    StopForward,
    record,
    returned_length,
)

__all__ = ["Visit", "calls_of", "chunks", "recordings", "traced", "visits"]


@dataclass(frozen=True)
class Visit:
    """One batch at one block, whose weights are in memory meanwhile.

    Attributes:
        number: Number of the batch.
        position: Place of the block in the list of remaining blocks.
        call: How the model calls the block.
        entering: What enters it, ``[batch, seq, hidden]``.
        leaving: What leaves it.
    """

    number: int
    position: int
    call: Call
    entering: Tensor
    leaving: Tensor


def recordings(
    model: Model,
    batches: Sequence[Tensor],
    first: int | None = None,
    last: int | None = None,
    *,
    keep_states: bool = False,
) -> Iterator[Recording]:
    """Yield what ``record`` returns of each batch, in order.

    Args:
        model: In eval mode; unchanged.
        batches: Token ids, each ``[batch, seq]``.
        first: Position in the list of remaining blocks; None: the first block.
        last: Position in the list of remaining blocks, inclusive; None: the last block.
        keep_states: Also return what enters every recorded block.

    Raises:
        ArchitectureError: As of ``record``; or the blocks cannot be streamed.
    """
    if model.streamed is None:
        for batch in batches:
            yield record(model, batch, first, last, keep_states=keep_states)
        return
    first = 0 if first is None else first
    last = len(model.kept) - 1 if last is None else last
    for chunk in chunks(model, batches, last - first + 2 if keep_states else 2):
        calls: list[list[Call]] = [[] for _ in chunk]
        states: list[list[Tensor]] = [[] for _ in chunk]
        ends: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(chunk)
        for visit in visits(model, chunk, last):
            if visit.position < first:
                continue
            calls[visit.number].append(visit.call)
            if keep_states:
                states[visit.number].append(visit.entering)
            began = visit.entering if visit.position == first else ends[visit.number][0]
            ends[visit.number] = (began, visit.leaving)
        for number in range(len(chunk)):
            yield Recording(ends[number][0], calls[number], ends[number][1], states[number])


def calls_of(model: Model, batch: Tensor | Mapping[str, Tensor]) -> list[Call]:
    """Return how the model calls each remaining block on a batch."""
    if model.streamed is None:
        return record(model, batch).calls
    return traced(model, batch)


def traced(model: Model, batch: Tensor | Mapping[str, Tensor]) -> list[Call]:
    """Return the same without running the blocks.

    Raises:
        ArchitectureError: The model does something between its blocks, or hands them what depends
            on other blocks' work, so that their calls are not known without it.
    """
    return _trace(model, batch, first=True)[1]


def chunks(model: Model, batches: Sequence[Tensor], states: int) -> Iterator[Sequence[Tensor]]:
    """Cut batches into runs that go through a model together, at least one batch each.

    Args:
        model: Says how much memory hidden states may take; with resident weights each batch goes
            by itself.
        batches: Token ids, each ``[batch, seq]``.
        states: Hidden states of one batch that exist at one time.
    """
    memory = 0 if model.streamed is None else model.streamed.memory
    width = model.text_config.hidden_size * model.dtype.itemsize
    start, taken = 0, 0
    for number, batch in enumerate(batches):
        size = states * batch.numel() * width
        if number > start and taken + size > memory:
            yield batches[start:number]
            start, taken = number, 0
        taken += size
    if start < len(batches):
        yield batches[start:]


def visits(
    model: Model,
    batches: Sequence[Tensor],
    last: int,
    first: int = 0,
    entering: Sequence[Tensor] | None = None,
) -> Iterator[Visit]:
    """Take batches through the blocks of a model; at each block, all batches in order.

    Args:
        model: In eval mode; unchanged.
        batches: Token ids, each ``[batch, seq]``.
        last: Position of the last block.
        first: Position of the first block.
        entering: What enters it, for each batch; None: what the embeddings put out, for block 0.

    Raises:
        ArchitectureError: The model does something between its blocks, or hands them what depends
            on other blocks' work, so that it cannot be streamed.
    """
    traces: list[list[Call]] = []
    states: list[Tensor] = []
    for position in range(first, last + 1):
        following = position + 1 if position < last else None
        with model.present(position, following):
            if position == first:
                for number, batch in enumerate(batches):
                    embedded, calls = _trace(model, batch, first=not traces)
                    traces.append(share_calls(calls, traces[-1] if traces else None))
                    states.append(embedded if entering is None else entering[number])
            block = model.block_list[position]
            for number, calls in enumerate(traces):
                state, call = states[number], calls[position]
                states[number] = call.run(block, state)
                yield Visit(number, position, call, state, states[number])


def _trace(
    model: Model, batch: Tensor | Mapping[str, Tensor], first: bool
) -> tuple[Tensor, list[Call]]:
    """See how the model calls its blocks without running them.

    What it hands to a block must not depend on what other blocks compute: for the first batch that
    is tried, with two different results in the blocks' places.
    """
    entering, calls = _calls(model, batch, 1.0)
    if first and not same_calls(calls, _calls(model, batch, 0.5)[1]):
        raise ArchitectureError(
            f"{type(model.module).__name__}: its blocks get more from each other than hidden"
            " states, so their weights cannot be streamed; give --weights resident"
        )
    return entering, calls


def _calls(
    model: Model, batch: Tensor | Mapping[str, Tensor], factor: float
) -> tuple[Tensor, list[Call]]:
    """Return what enters the first block, and the call of every block.

    Args:
        model: Unchanged.
        batch: Token ids ``[batch, seq]``.
        factor: What leaves a block is what enters it, times this.
    """
    length, listed = returned_length(model), model.block_list._modules
    real = dict(listed)
    seen: dict[int, tuple[Tensor, Call]] = {}
    written: list[Tensor] = []

    def note(position: int, hidden: Tensor, call: Call) -> Any:
        if written and not (hidden is written[-1] or torch.equal(hidden, written[-1])):
            raise ArchitectureError(
                f"{type(model.module).__name__}: block {model.kept[position]} does not read what"
                " the block before it wrote; the model changes the hidden states between its blocks"
            )
        seen[position] = (hidden, call)
        written.append(hidden * factor)
        if position == len(real) - 1:
            raise StopForward
        more = [torch.full((1,), factor) for _ in range(1, length)]  # never computed with
        return (written[-1], *more) if length else written[-1]

    for place, (name, block) in enumerate(real.items()):
        listed[name] = _Tracer(block, (place, note))
    try:
        model.module(**model.inputs(batch), use_cache=False)
    except StopForward:
        pass
    finally:
        listed.update(real)
    if not seen:
        raise ArchitectureError(f"{type(model.module).__name__}: no block ran on these inputs")
    passed_over = Call((), {}, None)
    calls = [seen[place][1] if place in seen else passed_over for place in range(len(real))]
    return seen[min(seen)][0], calls


class _Tracer(Injector):
    """Stands where a block stood, and tells how it is called."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Pass the call on; what comes back is returned."""
        position, note = self.__dict__["value"]
        return note(position, *take_hidden(args, kwargs))
