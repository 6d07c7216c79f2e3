"""What a finish trains: weights, with float32 masters, or low-rank updates of all blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fusegpt.models.blocks import decoder_of
from fusegpt.models.model import Model
from fusegpt.nn.leaves import trainable
from fusegpt.recovery.adapted import Trained, trained_updates
from fusegpt.recovery.settings.finish import FinishSettings

__all__ = ["blocks_beside_gaps", "trained"]


@contextmanager
def trained(model: Model, settings: FinishSettings, seed: int) -> Iterator[Trained]:
    """Inside, the parameters receive gradients; afterwards the model is plain and frozen.

    Args:
        model: Ends with what was learned, or with ``undo`` as it was.
        settings: Which parameters.
        seed: Seed of low-rank factors.
    """
    if settings.trains == "lora":
        with trained_updates(model, *settings.update, seed) as found:
            yield found
        return
    blocks = blocks_beside_gaps(model) if settings.trains == "gaps" else list(model.kept)
    modules: list[nn.Module] = [model.block(index) for index in blocks]
    if settings.trains == "all":
        modules = [decoder_of(model.module), model.module.get_output_embeddings()]
    leaves = list(dict.fromkeys(p for module in modules for p in module.parameters()))
    begun = [leaf.detach().to("cpu", copy=True) for leaf in leaves]
    masters = [_master(leaf) for leaf in leaves]
    pairs = [(leaf, own) for leaf, own in zip(leaves, masters, strict=True) if own is not leaf]
    found = Trained(masters, blocks, lambda: _write(pairs))
    with trainable(leaves):
        handles = [leaf.register_post_accumulate_grad_hook(_hand_over(own)) for leaf, own in pairs]
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()
            _write(list(zip(leaves, begun, strict=True)) if found.undo else pairs)


def blocks_beside_gaps(model: Model) -> list[int]:
    """Return the blocks before and behind each removed one, and those that lack a sublayer."""
    near = {unit.index for unit in model.lacking}
    for before, behind in zip([-1, *model.kept], [*model.kept, model.num_blocks], strict=True):
        if behind - before > 1:
            near |= {before, behind}
    return [index for index in model.kept if index in near]


def _master(leaf: nn.Parameter) -> nn.Parameter:
    wide = leaf.dtype in (torch.float32, torch.float64)
    return leaf if wide else nn.Parameter(leaf.detach().float())


def _hand_over(master: nn.Parameter) -> Callable[[Tensor], None]:
    """Add a gradient to that of the master, in float32, and forget it."""

    def hook(leaf: Tensor) -> None:
        assert leaf.grad is not None
        if master.grad is None:
            master.grad = leaf.grad.float()
        else:
            master.grad += leaf.grad
        leaf.grad = None

    return hook


@torch.no_grad()
def _write(pairs: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
    for leaf, value in pairs:
        leaf.copy_(value)
