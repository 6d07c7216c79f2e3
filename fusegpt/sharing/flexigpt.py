"""FlexiGPT: the least important blocks compute with the weights of similar ones, and adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import torch
from torch import Tensor, nn

from fusegpt.data.masked import mask_of
from fusegpt.errors import ArchitectureError
from fusegpt.importance.block_influence import block_influence
from fusegpt.models.model import Model
from fusegpt.models.structure.calls import Call
from fusegpt.models.structure.replay import record
from fusegpt.nn.fused import FusedWeight
from fusegpt.nn.losses import masked
from fusegpt.recovery.fit import fit_weights
from fusegpt.runtime import generator
from fusegpt.sharing.checks import check_shared
from fusegpt.sharing.cost import spent, told
from fusegpt.sharing.modeling import SharedLinear, finished, linear_layers, linear_shapes
from fusegpt.sharing.settings import FlexiGpt
from fusegpt.units import part_of

__all__ = ["closest", "flexigpt", "left_behind"]

SPARE, ITERATIONS = 8, 3
"""Directions beyond the rank, and rounds, of the subspace iteration."""


def flexigpt(
    model: Model,
    batches: Sequence[Tensor],
    sparsity: Decimal | float | str,
    settings: FlexiGpt = FlexiGpt(),
    *,
    seed: int,
) -> tuple[Model, dict[str, Any]]:
    """Replace the ``sparsity`` of the blocks with the lowest Block Influence by shared ones.

    Each computes with the matrices of the block from which a difference of low rank leads nearest
    to its own. Adapters start from that difference, rescaling from the spread of the outputs, and
    both are tuned, with the block's own norms, until the block gives what it gave before for the
    states that the blocks before it give now, some of which may be shared already.
    Source: FlexiGPT, arXiv 2501.14713 (decision D55).

    Args:
        model: Dense, or without some blocks. Its module is used up: do not touch it afterwards.
        batches: Token ids, each ``[batch, seq]`` int64, without padding.
        sparsity: Fraction of the blocks, in [0, 1); the number is rounded up.
        settings: Ranks, tuning, and the form of what is returned.
        seed: Not used but for the order of batches, which stays as it is.

    Returns:
        The model, and a record: by the number of a shared block, the number of its source; and
        what tuning took.

    Raises:
        ArchitectureError: Blocks have matrices outside linear layers, or no linear layers of equal
            shape.
        ConfigError: No block would be left to share with.
    """
    check_shared(model, batches[0], settings.stored)
    places = range(len(model.kept))
    settings.check_sparsity(len(places), sparsity, "sparsity")
    count = part_of(len(places), sparsity)
    influence = block_influence(model, batches, model.units()).tolist()
    replaced = sorted(sorted(places, key=influence.__getitem__)[:count])
    sources = closest(model, replaced, settings.rank)
    costs = []
    for number, (place, source) in enumerate(sources.items(), 1):
        name = f"block {model.kept[place]} shares block {model.kept[source]}"
        label = f"{name} ({number} of {count})"
        costs += _share(model, place, source, batches, settings, label)
    model, record = finished(model, sources, settings.rank, settings.stored)
    return model, record | told(costs)


@torch.no_grad()
def closest(model: Model, replaced: Sequence[int], rank: int) -> dict[int, int]:
    """Return for each replaced block the other one nearest to it, up to a difference of low rank.

    The distance of two blocks is what the best difference of that rank leaves of W_i - W_j: the
    sum over matrices of the squared singular values behind the first ``rank``.

    Args:
        model: Unchanged.
        replaced: Places of the blocks in the list of remaining ones.
        rank: Rank of the difference.

    Raises:
        ArchitectureError: A block has no linear layers, or no other block has equal ones.
    """
    blocks = model.blocks
    shapes = [linear_shapes(block) for block in blocks]
    found = {}
    for place in replaced:
        like = [
            other
            for other in range(len(blocks))
            if other not in replaced and shapes[other] == shapes[place]
        ]
        if not like or not shapes[place]:
            raise ArchitectureError(
                f"{type(model.module).__name__}: block {model.kept[place]} has no linear layers of"
                " the shapes that a block which stays has; its weights cannot be shared"
            )
        own = dict(linear_layers(blocks[place]))
        found[place] = min(
            like,
            key=lambda other: sum(
                left_behind(own[name].weight, base.weight, rank)
                for name, base in linear_layers(blocks[other])
            ),
        )
    return found


def left_behind(one: Tensor, other: Tensor, rank: int) -> float:
    """Return the squared length of a difference without its part of low rank.

    The leading part is found by subspace iteration, since a whole decomposition of each pair of
    matrices would take hours on a large model.
    """
    difference = one.float() - other.float()
    if rank >= min(difference.shape):
        return 0.0
    basis = torch.randn(
        difference.shape[1], min(rank + SPARE, *difference.shape), generator=generator("closest")
    )
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(difference.T @ (difference @ basis.to(difference)))[0]
    sizes = torch.linalg.svdvals(difference @ basis)[:rank].double()
    return float(difference.double().square().sum() - sizes.square().sum())


@dataclass(frozen=True)
class _Batch:
    """One batch at a block before it shares; states on the CPU."""

    call: Call
    entering: Tensor
    leaving: Tensor
    mask: Tensor | None


def _share(
    model: Model,
    place: int,
    source: int,
    batches: Sequence[Tensor],
    settings: FlexiGpt,
    label: str,
) -> list[dict[str, float]]:
    """Replace the linear layers of a block, tune what it keeps of its own, and say what it took."""
    block = model.block_list[place]
    bases = dict(linear_layers(model.block_list[source]))
    layers = {n: (m, _adapted(m, bases[n], settings.rank)) for n, m in linear_layers(block)}
    spreads = {name: _Spread(*pair) for name, pair in layers.items()}
    handles = [pair[0].register_forward_hook(spreads[n].note) for n, pair in layers.items()]
    try:
        with torch.no_grad():
            seen = [_look(model, place, batch) for batch in batches]
    finally:
        for handle in handles:
            handle.remove()
    for name, (_, shared) in layers.items():
        spreads[name].rescale(shared)
        block.set_submodule(name, shared)
    if not settings.epochs:
        return []
    measure, index = masked(settings.loss), model.kept[place]

    def loss_of(number: int) -> Tensor:
        batch = seen[number]
        out = batch.call.run(block, batch.entering.to(model.device))
        return measure(out, batch.leaving.to(model.device), batch.mask)

    weights = {
        f"blocks.{index}.{name}": FusedWeight(
            parameter.detach().clone(),
            update_rank="full",
            dtype=torch.float32,
            generator=generator(name),
        )
        for name, parameter in block.named_parameters()
    }
    order = (model, weights, loss_of, len(seen), settings.tuning())
    fit = fit_weights(*order, seed=0, checkpoint=None, label=label)
    run, own = model.kept[: place + 1], [index]  # its matrices lie in the other block
    how = (model, batches, settings.epochs, weights, fit)
    return [spent(*how, label=label, seen=run, trained=[], frozen=own)]


def _look(model: Model, place: int, batch: Tensor) -> _Batch:
    seen = record(model, batch, place, place)
    mask = mask_of(batch)
    return _Batch(seen.calls[0], seen.hidden_in.cpu(), seen.hidden_out.cpu(), mask)


@torch.no_grad()
def _adapted(own: nn.Linear, base: nn.Linear, rank: int) -> SharedLinear:
    """Return a shared layer whose adapter is the best difference of its rank."""
    shared = SharedLinear(base, rank)
    difference = own.weight.double() - base.weight.double()
    left, sizes, right = torch.linalg.svd(difference, full_matrices=False)
    rank, root = len(shared.down), sizes.sqrt()
    shared.up.copy_(left[:, :rank] * root[:rank])
    shared.down.copy_(root[:rank, None] * right[:rank])
    shared.scale.fill_(1)
    if shared.bias is not None:
        shared.bias.zero_()
    return shared


class _Spread:
    """Mean and variance over tokens of what a layer gives, and of what a shared one would."""

    def __init__(self, own: nn.Linear, shared: SharedLinear) -> None:
        self.shared = shared
        self.tokens = 0
        self.sums = torch.zeros(4, own.out_features, dtype=torch.float64)

    def note(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """Add the tokens of one call."""
        pair = [output, self.shared(args[0])]
        for row, values in enumerate(v.detach().double().flatten(0, -2).cpu() for v in pair):
            self.sums[2 * row] += values.sum(0)
            self.sums[2 * row + 1] += values.square().sum(0)
        self.tokens += output[..., 0].numel()

    def rescale(self, shared: SharedLinear) -> None:
        """Give each output the spread that the own layer gave it, and its mean where biases are."""
        mean, square, other, squared = self.sums / self.tokens
        wanted, found = (square - mean**2).clamp_min(0), (squared - other**2).clamp_min(0)
        scale = torch.where(found > 0, (wanted / found.clamp_min(1e-300)).sqrt(), 1.0)
        shared.scale.copy_(scale)
        if shared.bias is not None:
            shared.bias.copy_(mean - scale * other)
