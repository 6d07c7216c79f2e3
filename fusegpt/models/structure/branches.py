"""The attention and mlp of a block: found, bypassed for a while, seen from both sides."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fusegpt.errors import ArchitectureError
from fusegpt.models.model import Model
from fusegpt.models.parts import Branches
from fusegpt.models.structure.calls import Call
from fusegpt.models.structure.probe import Probe
from fusegpt.models.structure.replay import record
from fusegpt.models.sublayers import Removed, replacements
from fusegpt.runtime import generator
from fusegpt.units import Unit

__all__ = [
    "around",
    "bypass",
    "find_branches",
    "parameters_of",
    "plain_ids",
]

TOKENS = (2, 5)
"""Batch size and length of the token ids that probe a model."""


@torch.no_grad()
def find_branches(model: Model, index: int) -> Branches:
    """Return the branches of a remaining block.

    The first call runs a few tokens through the model; blocks of equal make are probed once.

    Args:
        model: Unchanged, but for what it remembers.
        index: Dense index of the block.

    Raises:
        ArchitectureError: The block has no two branches that can be told apart; says why.
    """
    if index not in model.branches:
        _probe_all(model)
    found = model.branches[index]
    if isinstance(found, str):
        raise ArchitectureError(found)
    return found


@contextmanager
def bypass(model: Model, units: Collection[Unit]) -> Iterator[None]:
    """Inside, some sublayers compute and add nothing; blocks run alone, without a cache.

    Quicker than ``skip``, since the configuration stays as it is.

    Args:
        model: As before afterwards.
        units: Sublayers; those that are removed already change nothing.
    """
    with ExitStack() as stack:
        for unit in sorted(set(units) - model.lacking):
            sublayer = find_branches(model, unit.index).sublayers[unit.kind]
            block = model.block(unit.index)
            stack.enter_context(_swapped(block, replacements(sublayer.to_json())))
        yield


@torch.no_grad()
def around(
    model: Model, unit: Unit, call: Call, entering: Tensor, leaving: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the hidden states before and after a sublayer, ``[batch, seq, hidden]`` each.

    What enters the block, plus what the attention adds, plus what the mlp adds: the attention is
    between the first two sums, the mlp between the last two; in parallel blocks as well.

    Args:
        model: Unchanged.
        unit: A remaining attention or mlp.
        call: How the model called its block.
        entering: What enters the block.
        leaving: What leaves it.
    """
    with bypass(model, [Unit("mlp", unit.index)]):
        between = call.run(model.block(unit.index), entering)
    return (entering, between) if unit.kind == "attention" else (between, leaving)


def parameters_of(model: Model, unit: Unit) -> dict[str, nn.Parameter]:
    """Return the parameters of a remaining unit by their names in the block."""
    block = model.block(unit.index)
    if unit.kind == "block":
        return dict(block.named_parameters())
    own = tuple(f"{n}." for n in find_branches(model, unit.index).sublayers[unit.kind].names)
    return {name: p for name, p in block.named_parameters() if name.startswith(own)}


def plain_ids(model: Model, batch: int, seq: int) -> Tensor:
    """Return random token ids ``[batch, seq]`` with no meaning to the model, such as images."""
    settings = {**vars(model.module.config), **vars(model.text_config)}
    special = {
        value
        for name, value in settings.items()
        if name.endswith(("token_id", "token_index")) and isinstance(value, int)
    }
    vocabulary: Any = model.text_config.vocab_size
    plain = torch.tensor([token for token in range(vocabulary) if token not in special])
    return plain[torch.randint(len(plain), (batch, seq), generator=generator("check"))]


@contextmanager
def _swapped(block: nn.Module, stand_ins: dict[str, Removed]) -> Iterator[None]:
    real = {name: block._modules[name] for name in stand_ins}
    block._modules.update(stand_ins)
    try:
        yield
    finally:
        block._modules.update(real)


def _probe_all(model: Model) -> None:
    """Find the branches of all remaining blocks, or why a block has none."""
    seen = record(model, plain_ids(model, *TOKENS), keep_states=True)
    idle = [i for i, call in zip(model.kept, seen.calls, strict=True) if call.hidden_key is None]
    if idle:
        why = f"text does not run through blocks {idle}; only whole blocks can go"
        model.branches.update(dict.fromkeys(model.kept, f"{type(model.module).__name__}: {why}"))
        return
    known: dict[Any, Branches | str] = {}
    for index, call, hidden in zip(model.kept, seen.calls, seen.states, strict=True):
        block = model.block(index)
        where = f"{type(model.module).__name__}: block {index} ({type(block).__name__})"
        make = (type(block), *((n, type(m), _shapes(m)) for n, m in block.named_children()))
        with model.present(model.position(index)):
            if make not in known:
                try:
                    known[make] = Probe(block, call, hidden).branches()
                except ArchitectureError as error:
                    known[make] = str(error)
            found = known[make]
            if isinstance(found, Branches) and not _adds_up(found, block, call, hidden):
                found = "something besides its attention and its mlp changes the hidden states"
        model.branches[index] = f"{where}: {found}" if isinstance(found, str) else found


def _shapes(module: nn.Module) -> tuple[tuple[str, ...], ...]:
    return tuple((name, *map(str, p.shape)) for name, p in module.named_parameters())


def _adds_up(found: Branches, block: nn.Module, call: Call, hidden: Tensor) -> bool:
    """Whether a block without its branches hands over what it got."""
    with ExitStack() as stack:
        for sublayer in found.sublayers.values():
            stack.enter_context(_swapped(block, replacements(sublayer.to_json())))
        return torch.equal(call.run(block, hidden), hidden)
