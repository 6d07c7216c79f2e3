"""What blocks of a loaded model cost, by the rule of `fusegpt.work`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusegpt.work import attention_width, forward_rule, head_rule, training_rule

if TYPE_CHECKING:
    from fusegpt.models.model import Model

__all__ = ["forward_flops", "head_flops", "training_flops"]


def forward_flops(model: Model, blocks: Sequence[int], tokens: int, length: int) -> float:
    """FLOPs of running ``tokens`` tokens, in windows of ``length``, through some blocks.

    Args:
        model: Unchanged.
        blocks: Dense indices of remaining blocks.
        tokens: Tokens of all windows together.
        length: Tokens of a window.
    """
    return forward_rule(*_size(model, blocks), tokens, length)


def training_flops(
    model: Model, blocks: Sequence[int], tokens: int, length: int, *, adapters: bool = False
) -> float:
    """FLOPs of training some blocks on ``tokens`` tokens, all epochs counted.

    Args:
        model: Unchanged.
        blocks: Dense indices of remaining blocks.
        tokens: Tokens of all windows and epochs together.
        length: Tokens of a window.
        adapters: The matrices themselves are frozen and need no gradient.
    """
    return training_rule(*_size(model, blocks), tokens, length, adapters=adapters)


def head_flops(model: Model, tokens: int) -> float:
    """FLOPs of the logits of ``tokens`` tokens, forward."""
    config = model.text_config
    return head_rule(config.vocab_size, config.hidden_size, tokens)


def _size(model: Model, blocks: Sequence[int]) -> tuple[int, float]:
    """Values in the matrices that blocks compute with, and widths of their attentions together."""
    values = sum(p.numel() for index in blocks for p in model.matrices(index).values())
    for index in blocks:
        for module in model.block(index).modules():
            values += getattr(module, "borrowed", 0)
    attending = {unit.index for unit in model.units("attention")}.intersection(blocks)
    config = model.text_config
    if not getattr(config, "is_heterogeneous", False):
        return values, attention_width(config) * len(attending)
    own = [config.per_layer_config[model.position(index)] for index in attending]
    return values, sum(map(attention_width, own))
