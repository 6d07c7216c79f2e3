"""Concatenation: the most sensitive heads and channels of two neighbours make one block (CoMe)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fusegpt.data.masked import mask_of, tokens_in
from fusegpt.errors import ArchitectureError
from fusegpt.models.flops import forward_flops, head_flops
from fusegpt.models.model import Model
from fusegpt.models.structure.channels import Channels, find_channels
from fusegpt.models.structure.replay import record
from fusegpt.models.surgery.removal import remove
from fusegpt.recovery.closed_form import BATCH, next_token_loss
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings.whole import Concatenation
from fusegpt.recovery.suits import first_that_works
from fusegpt.units import KINDS, Kind, Unit

__all__ = ["concatenation", "divided", "suits"]


@dataclass(frozen=True)
class _Block:
    """A block of the pair as it was before the merge, and what the text says about it.

    Attributes:
        values: Its parameters by name.
        parts: The parts of its attention and of its mlp.
        sensitivity: How much each part adds, ``[parts]`` float64 on the CPU, by kind.
        influence: How far it changes the direction of the hidden states.
        norms: Names of the parameters that scale whole hidden states.
    """

    values: Mapping[str, Tensor]
    parts: Mapping[Kind, Channels]
    sensitivity: Mapping[Kind, Tensor]
    influence: float
    norms: frozenset[str]


def concatenation(
    model: Model,
    unit: Unit,
    windows: Tensor,
    settings: Concatenation = Concatenation(),
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> RecoveryReport:
    """Remove a block and give the one before it the most sensitive parts of both.

    A channel's sensitivity is the mean over tokens of its absolute value, times the sum of the
    absolute weights that read it; a head's is the mean over its channels. Each block keeps a share
    of the places in proportion to its Block Influence. Norms become the mean of both; what parts
    share otherwise, such as the biases of output projections, is weighted by the shares.
    Source: CoMe, arXiv 2510.15304, and its published code (decision D53).

    Args:
        model: Loses the block; all of the block before it changes.
        unit: Still present; not the first.
        windows: Token ids ``[sequences, length]`` int64.
        settings: How shares are found.
        seed: Not used; nothing is drawn.
        checkpoint: Not used; there is nothing to resume.

    Raises:
        ArchitectureError: There is no block before it, or their heads and channels do not match.
    """
    place = model.position(unit.index)
    if place == 0:
        raise ArchitectureError(
            f"concatenation: no block before {unit} could take over its parts;"
            " set importance.protect_first to 1"
        )
    before = model.kept[place - 1]
    blocks = _look(model, (before, unit.index), windows)
    _check_alike(model, (before, unit.index), blocks)
    run = model.kept[: place + 1]
    spent = forward_flops(model, run, tokens_in(windows), windows.shape[1])
    remove(model, unit)
    share = _share(blocks)
    if settings.search:
        losses: dict[float, float] = {}
        for step in range(settings.search + 1):
            tried = step / settings.search
            _write(model, before, _merged(blocks, tried))
            losses[tried] = next_token_loss(model, windows)
        share = min(losses, key=losses.__getitem__)
        whole = forward_flops(model, model.kept, tokens_in(windows), windows.shape[1])
        spent += len(losses) * (whole + head_flops(model, tokens_in(windows)))
    new = _merged(blocks, share)
    _write(model, before, new)
    changed = [f"blocks.{before}.{name}" for name in new]
    return RecoveryReport(
        changed=changed, fused_into=[before], tokens=tokens_in(windows), flops=spent
    )


def divided(count: int, share: float) -> tuple[int, int]:
    """Divide places between two blocks: the smaller share is rounded down.

    Args:
        count: Number of places.
        share: Share of the first block.
    """
    if share >= 0.5:
        fewer = int(count * (1 - share))
        return count - fewer, fewer
    fewer = int(count * share)
    return fewer, count - fewer


@torch.no_grad()
def _look(model: Model, pair: tuple[int, int], windows: Tensor) -> tuple[_Block, _Block]:
    """Run the windows through both blocks and note what their parts add."""
    first, last = map(model.position, pair)
    parts = {i: {kind: find_channels(model, i, kind) for kind in KINDS["mixed"]} for i in pair}
    sums: dict[tuple[int, Kind], Tensor] = {}
    turned = dict.fromkeys(pair, 0.0)
    for batch in windows.split(BATCH):
        mask = mask_of(batch)
        with _watched(model, parts, sums, mask):
            seen = record(model, batch, first, last, keep_states=True)
        for index, entering, leaving in zip(
            pair, seen.states, [*seen.states[1:], seen.hidden_out], strict=True
        ):
            cosine = functional.cosine_similarity(entering.float(), leaving.float(), dim=-1)
            change = 1 - cosine.clamp(0, 1).double()  # [batch, seq]
            turned[index] += (
                (change if mask is None else change[mask.to(change.device)]).sum().item()
            )
    tokens, width = tokens_in(windows), model.text_config.hidden_size
    one, other = (
        _Block(
            {name: p.detach().cpu().clone() for name, p in model.block(i).named_parameters()},
            parts[i],
            {kind: sums[i, kind] / tokens for kind in parts[i]},
            turned[i] / tokens,
            frozenset(n for n, p in model.norms(i).items() if p.numel() == width),
        )
        for i in pair
    )
    return one, other


@contextmanager
def _watched(
    model: Model,
    parts: Mapping[int, Mapping[Kind, Channels]],
    sums: dict[tuple[int, Kind], Tensor],
    mask: Tensor | None,
) -> Iterator[None]:
    """Inside, add up what each part adds to what its branch's last matrix computes."""
    handles = []
    for index, kinds in parts.items():
        for kind, channels in kinds.items():
            module = model.block(index).get_submodule(channels.last)
            place = channels.places[f"{channels.last}.weight"]
            weight = module.get_parameter("weight").double().abs().sum(1 - place.axis)  # [channels]
            note = _noting(sums, (index, kind), weight, channels.count, mask)
            handles.append(module.register_forward_pre_hook(note))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _noting(
    sums: dict[tuple[int, Kind], Tensor],
    key: tuple[int, Kind],
    weight: Tensor,
    count: int,
    mask: Tensor | None,
) -> Callable[[nn.Module, Any], None]:
    def hook(module: nn.Module, args: Any) -> None:
        values = args[0].detach().double().abs().reshape(-1, len(weight))  # [tokens, channels]
        kept = values if mask is None else values[mask.flatten().to(values.device)]
        added = (kept.sum(0) * weight).cpu().view(count, -1).mean(1)  # [parts]
        sums[key] = sums[key] + added if key in sums else added

    return hook


def _check_alike(model: Model, pair: tuple[int, int], blocks: tuple[_Block, _Block]) -> None:
    """Refuse blocks whose parts do not fit into each other's places."""
    shapes = [{name: value.shape for name, value in block.values.items()} for block in blocks]
    counts = [{kind: c.count for kind, c in block.parts.items()} for block in blocks]
    placed = {name for channels in blocks[0].parts.values() for name in channels.places}
    loose = [n for n, v in blocks[0].values.items() if v.dim() > 1 and n not in placed]
    if shapes[0] != shapes[1] or counts[0] != counts[1] or loose:
        why = f"{loose[0]} belongs to no head and no channel" if loose else "they differ in shape"
        raise ArchitectureError(
            f"{type(model.module).__name__}: blocks {pair[0]} and {pair[1]} cannot be"
            f" concatenated; {why}"
        )


def _share(blocks: tuple[_Block, _Block]) -> float:
    """Return the first block's share of the places."""
    one, other = (block.influence for block in blocks)
    return 0.5 if one + other == 0 else one / (one + other)


def _merged(blocks: tuple[_Block, _Block], share: float) -> dict[str, Tensor]:
    """Return the merged block's parameters by name, of which the first block keeps a share."""
    one, other = (block.values for block in blocks)
    places = {
        name: (kind, p) for kind, c in blocks[0].parts.items() for name, p in c.places.items()
    }
    counts = {kind: divided(c.count, share) for kind, c in blocks[0].parts.items()}
    best = {
        kind: [
            block.sensitivity[kind].argsort(stable=True)[len(block.sensitivity[kind]) - number :]
            for block, number in zip(blocks, numbers, strict=True)
        ]
        for kind, numbers in counts.items()
    }
    new = {}
    for name, value in one.items():
        if name not in places:
            own = 0.5 if name in blocks[0].norms else share
            mixed = own * value.double() + (1 - own) * other[name].double()
            new[name] = mixed.to(value.dtype)
            continue
        kind, place = places[name]
        taken = [
            v.index_select(place.axis, place.layout[chosen.sort().values].flatten())
            for v, chosen in zip((value, other[name]), best[kind], strict=True)
        ]
        new[name] = torch.empty_like(value).index_copy_(
            place.axis, place.layout.flatten(), torch.cat(taken, place.axis)
        )
    return new


@torch.no_grad()
def _write(model: Model, index: int, values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        model.block(index).get_parameter(name).copy_(value)


def suits(model: Model, units: Sequence[Unit], batch: Tensor, settings: Concatenation) -> None:
    """Refuse a model whose blocks have no heads and channels to choose from.

    Args:
        model: Unchanged.
        units: Remaining blocks that the data run through.
        batch: Not used.
        settings: Not used.

    Raises:
        ArchitectureError: The method can work on none of the units.
    """

    def attempt(unit: Unit) -> None:
        for kind in KINDS["mixed"]:
            find_channels(model, unit.index, kind)

    first_that_works(units, attempt)
