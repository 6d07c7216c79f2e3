"""The last hidden states without some units, sharing the work before the first missing one.

Leaving out block i changes nothing before it, so its stream starts from the state that entered
it: n(n+1)/2 block forward passes in place of n² (with the reference pass), and the states are the
same bit for bit. Leaving out a sublayer of block i starts there too, and runs the other sublayer:
n(n+3)/2 passes for all n attentions, or all n mlps, n of them through one sublayer only.

Streams follow each other where all weights are in memory. Where blocks are read when they run, or
states are kept for the next scoring, all streams of some batches go through a block together: the
same passes in another order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from torch import Tensor

from fusegpt.models.model import Model
from fusegpt.models.structure.branches import bypass, find_branches
from fusegpt.models.structure.calls import Call
from fusegpt.models.structure.kept_states import KeptStates
from fusegpt.models.structure.replay import Recording, record, run_blocks
from fusegpt.models.structure.visits import Visit, chunks, visits
from fusegpt.units import Unit

__all__ = ["run_without", "states_without"]

Units = Collection[Unit]


def states_without(
    model: Model,
    batches: Sequence[Tensor],
    missing: Sequence[Sequence[Units]],
    kept: KeptStates | None = None,
) -> Iterator[tuple[Tensor, Iterator[Tensor]]]:
    """Run the model whole, and then without each of some sets of units.

    Args:
        model: In eval mode. Unchanged.
        batches: Token ids, each ``[batch, seq]``.
        missing: For each batch the sets, each of at least one remaining unit.
        kept: States of an earlier call to go on from; gets those of this one. With it, each set
            is a single unit, and the batches and their sets are those that ``kept`` began with.

    Yields:
        For each batch the reference ``[batch, seq, hidden]``, before the final norm, and an
        iterator over the states without each set, in order; to be used before the next batch.
    """
    if model.streamed is None and kept is None:
        for batch, sets in zip(batches, missing, strict=True):
            yield _one_by_one(model, batch, sets)
        return
    if any(unit.kind != "block" for sets in missing for units in sets for unit in units):
        find_branches(model, model.kept[0])  # once, before the passes
    done = 0
    for chunk in chunks(model, batches, max(map(len, missing)) + 2):
        yield from _together(model, chunk, missing[done : done + len(chunk)], kept, done)
        done += len(chunk)


def _one_by_one(
    model: Model, batch: Tensor, sets: Sequence[Units]
) -> tuple[Tensor, Iterator[Tensor]]:
    """Record one batch, whose states are gone with the last stream."""
    recording = record(model, batch, keep_states=True)
    return recording.hidden_out, (_state_without(model, recording, units) for units in sets)


def _state_without(model: Model, recording: Recording, units: Units) -> Tensor:
    """Run the model without some units, from what one whole pass recorded.

    Args:
        model: As it was when recorded. Unchanged.
        recording: A recording of all remaining blocks, with ``keep_states``.
        units: Remaining units that are left out together; at least one.

    Returns:
        ``[batch, seq, hidden]`` after the last block, before the final norm.
    """
    first = min(model.position(unit.index) for unit in units)
    return run_without(model, recording.calls[first:], recording.states[first], units)


def run_without(model: Model, calls: Sequence[Call], state: Tensor, units: Units) -> Tensor:
    """Run the last blocks of the model without some units.

    Args:
        model: Unchanged.
        calls: How the last blocks were called, all of them.
        state: What enters the first of these.
        units: Units of these blocks that are left out together.

    Returns:
        ``[batch, seq, hidden]`` after the last block, before the final norm.
    """
    missing = {model.position(unit.index) for unit in units if unit.kind == "block"}
    blocks = model.blocks
    first = len(blocks) - len(calls)
    rest = [place for place in range(first, len(blocks)) if place not in missing]
    with bypass(model, [unit for unit in units if unit.kind != "block"]):
        own = [calls[place - first] for place in rest]
        return run_blocks([blocks[place] for place in rest], own, state)


def _together(
    model: Model,
    batches: Sequence[Tensor],
    missing: Sequence[Sequence[Units]],
    kept: KeptStates | None = None,
    done: int = 0,
) -> Iterator[tuple[Tensor, Iterator[Tensor]]]:
    """Take all streams of some batches through each block before the next block.

    Args:
        model: Unchanged.
        batches: Token ids, each ``[batch, seq]``.
        missing: For each batch the sets of units.
        kept: As in ``states_without``.
        done: Number of batches before these.
    """
    streams: list[dict[int, Tensor]] = [{} for _ in batches]
    references: list[Tensor] = []
    last, first, entering = len(model.kept) - 1, 0, None
    if kept is not None and kept.start:
        first = kept.start
        entering = [kept.get(done + number).to(model.device) for number in range(len(batches))]
        for number, sets in enumerate(missing):
            for place, units in enumerate(sets):
                if all(model.position(unit.index) < first for unit in units):
                    streams[number][place] = kept.get(done + number, units).to(model.device)
    for visit in visits(model, batches, last, first, entering):
        own = streams[visit.number]
        if kept is not None and visit.position != first:
            kept.put(visit.position, done + visit.number, (), visit.entering)
            for number, state in own.items():
                units = missing[visit.number][number]
                kept.put(visit.position, done + visit.number, units, state)
        for number, units in enumerate(missing[visit.number]):
            here = [unit for unit in units if model.position(unit.index) == visit.position]
            if number in own or here:
                own[number] = _run(model, visit, here, own.get(number, visit.entering))
        if visit.position == last:
            references.append(visit.leaving)
    for number, reference in enumerate(references):
        yield reference, (streams[number].pop(place) for place in sorted(streams[number]))


def _run(model: Model, visit: Visit, here: Sequence[Unit], state: Tensor) -> Tensor:
    """One stream through one block, without the units that are missing there."""
    if any(unit.kind == "block" for unit in here):
        return state
    with bypass(model, here):
        return visit.call.run(model.block_list[visit.position], state)
