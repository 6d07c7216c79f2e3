"""FoldGPT: some blocks go, neighbours among the others share weights, last states are taught."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import torch
from torch import Tensor

from fusegpt.data.masked import mask_of
from fusegpt.errors import ArchitectureError
from fusegpt.importance.block_influence import block_influence
from fusegpt.importance.gates import gates
from fusegpt.models.model import Model
from fusegpt.models.structure.calls import Call, share_calls
from fusegpt.models.structure.visits import recordings
from fusegpt.models.surgery.removal import remove
from fusegpt.models.surgery.sublayer_removal import last_blocks_of_their_kind
from fusegpt.nn.losses import masked
from fusegpt.recovery.fit import fit_weights
from fusegpt.recovery.room import States, runner
from fusegpt.recovery.weights import fused_weights
from fusegpt.sharing.checks import check_shared
from fusegpt.sharing.cost import spent, told
from fusegpt.sharing.modeling import finished, linear_shapes, share
from fusegpt.sharing.settings import FoldGpt
from fusegpt.units import Unit

__all__ = ["children", "foldgpt"]

logger = logging.getLogger(__name__)


def foldgpt(
    model: Model,
    batches: Sequence[Tensor],
    sparsity: Decimal | float | str,
    settings: FoldGpt = FoldGpt(),
    *,
    seed: int,
) -> tuple[Model, dict[str, Any]]:
    """Let the ``sparsity`` of the blocks do without weights of their own: removed, or shared.

    Blocks whose learned gates close first are removed. Of the others, those of least Block
    Influence compute with all matrices and biases of a block before them, and with their own norms.
    Then shared matrices, by low-rank updates, and norms are tuned until the last block gives the
    states that the dense model's gave.
    Source: FoldGPT, arXiv 2407.00928 (decisions D59, D61).

    Args:
        model: Dense, or without some blocks. Its module is used up: do not touch it afterwards.
        batches: Token ids, each ``[batch, seq]`` int64, without padding.
        sparsity: Fraction of the blocks, in [0, 1); the number is rounded up.
        settings: How many are removed and not shared, sizes of groups, tuning, and the form of
            what is returned.
        seed: Of the low-rank factors.

    Returns:
        The model, and a record: by the number of a shared block, the number of its source; and
        what tuning took.

    Raises:
        ArchitectureError: Blocks have matrices outside linear layers; those of a group have no
            linear layers of equal shape; or too few can go before none of a kind is left.
        ConfigError: Groups of this size have no room for so many shared blocks.
    """
    settings.check_sparsity(len(model.kept), sparsity, "sparsity")
    check_shared(model, batches[0], settings.stored)
    gone, shared = settings.counts(len(model.kept), sparsity)
    taught = _last_states(model, batches) if settings.epochs and shared else None
    if gone:
        remove(model, *_closed(model, batches, gone))
        logger.info("removed blocks %s by their gates", [u.index for u in model.removed[-gone:]])
    influence = block_influence(model, batches, model.units()).tolist()
    sources: dict[int, int] = {}
    for place in children(influence, shared, settings.group_size):
        sources[place] = sources.get(place - 1, place - 1)
    _check_alike(model, sources)
    share(model.module, sources, 0)
    for place, source in sources.items():
        logger.info("block %d shares block %d", model.kept[place], model.kept[source])
    costs: list[dict[str, float]] = []
    if taught is not None:
        group = sorted({*sources, *sources.values()})
        costs = [_tune(model, group, batches, taught, settings, seed)]
    model, record = finished(model, sources, 0, settings.stored)
    return model, record | told(costs)


def children(influence: Sequence[float], count: int, group_size: int) -> list[int]:
    """Return the places of the blocks of least total influence that can share in groups.

    A group is a block and those that follow it without weights of their own, so the first block is
    never among them, and fewer than ``group_size`` of them follow each other.

    Args:
        influence: Of each block.
        count: How many are wanted; groups have room for them.
        group_size: Blocks of a group, at most.
    """
    best: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {(0, 0): (0.0, ())}
    for place, cost in enumerate(influence):
        found: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {}
        for (taken, run), (total, chosen) in best.items():
            options = [((taken, 0), (total, chosen))]
            if place and taken < count and run + 1 < group_size:
                options.append(((taken + 1, run + 1), (total + cost, (*chosen, place))))
            for key, value in options:
                found[key] = min(found.get(key, value), value)
        best = found
    return list(min(value for (taken, _), value in best.items() if taken == count)[1])


def _closed(model: Model, batches: Sequence[Tensor], count: int) -> list[Unit]:
    """Return the blocks whose gates close first, of which the last of a kind is none, ascending."""
    units, found = model.units(), list[Unit]()
    for place in gates(model, batches, units).argsort(stable=True).tolist():
        if len(found) < count and not last_blocks_of_their_kind(model, [*found, units[place]]):
            found.append(units[place])
    if len(found) < count:
        raise ArchitectureError(
            f"{count} blocks: at most {len(found)} can go, as the last one of each kind stays;"
            " lower the sparsity, or width.removed"
        )
    return sorted(found)


def _check_alike(model: Model, sources: Mapping[int, int]) -> None:
    """Refuse blocks that cannot compute with the matrices of their source."""
    for place, source in sources.items():
        own = linear_shapes(model.blocks[place])
        if not own or own != linear_shapes(model.blocks[source]):
            raise ArchitectureError(
                f"{type(model.module).__name__}: blocks {model.kept[place]} and"
                f" {model.kept[source]} have no linear layers of equal shapes; they cannot share"
                " weights"
            )


@torch.no_grad()
def _last_states(model: Model, batches: Sequence[Tensor]) -> list[Tensor]:
    """Return what leaves the last block, ``[batch, seq, hidden]`` on the CPU, batch by batch."""
    last = len(model.kept) - 1
    return [seen.hidden_out.cpu() for seen in recordings(model, batches, last)]


def _tune(
    model: Model,
    group: Sequence[int],
    batches: Sequence[Tensor],
    taught: Sequence[Tensor],
    settings: FoldGpt,
    seed: int,
) -> dict[str, float]:
    """Teach the last states to the blocks at some places, and return what it took.

    The blocks between them run as they are.
    """
    states = States(2 * sum(t.nbytes for t in taught), model.device, None)
    calls: list[list[Call]] = []
    with torch.no_grad():
        seen = recordings(model, batches, group[0])
        for recording, wanted in zip(seen, taught, strict=True):
            states.add(recording.hidden_in, wanted)
            calls.append(share_calls(recording.calls, calls[-1] if calls else None))
    label = "distillation of the last states"
    run, measure = runner(model.blocks[group[0] :], model.device, label), masked(settings.loss)

    def loss_of(number: int) -> Tensor:
        entering, wanted = states.get(number)
        return measure(run(calls[number], entering), wanted, mask_of(batches[number]))

    trained = [model.kept[place] for place in group]
    weights = fused_weights(
        model,
        trained,
        update_rank=settings.rank,
        train_norms=True,
        dtype="float32",
        seed=seed,
        step=0,
    )
    order = (model, weights, loss_of, len(batches), settings.tuning())
    fit = fit_weights(*order, seed=seed, checkpoint=None, label=label)
    between = [index for index in model.kept[group[0] :] if index not in trained]
    how = (model, batches, settings.epochs, weights, fit)
    return spent(*how, label=label, seen=model.kept, trained=trained, frozen=between)
