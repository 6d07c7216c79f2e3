"""An estimate of the arithmetic a recovery costs, by one rule for every method.

A block's forward pass over T tokens in windows of S takes T·(2P + 2·S·d): P values in its
matrices, two operations each, and causal attention over half of S on average, d wide. Training
every matrix takes T·(6P + 7·S·d): forward, both gradients, and 2.5 forwards of attention back.
Adapters leave out the gradient of the frozen matrices: T·(4P + 7·S·d). Norms, softmax and the
optimiser are left out; all experts count, though a token visits few.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fusegpt.models.model import Model

__all__ = ["forward_flops", "forward_rule", "head_flops", "training_flops", "training_rule"]


def forward_rule(values: float, width: float, tokens: float, length: int) -> float:
    """FLOPs of a forward pass: ``values`` in all matrices, ``width`` of all blocks together."""
    return float(tokens) * (2 * values + 2 * length * width)


def training_rule(
    values: float, width: float, tokens: float, length: int, *, adapters: bool = False
) -> float:
    """FLOPs of training likewise; ``adapters``: the matrices are frozen and need no gradient."""
    return float(tokens) * ((4 if adapters else 6) * values + 7 * length * width)


def forward_flops(model: Model, blocks: Sequence[int], tokens: int, length: int) -> float:
    """FLOPs of running ``tokens`` tokens, in windows of ``length``, through some blocks.

    Args:
        model: Unchanged.
        blocks: Dense indices of remaining blocks.
        tokens: Of all windows together.
        length: Of a window.
    """
    return forward_rule(*_size(model, blocks), tokens, length)


def training_flops(
    model: Model, blocks: Sequence[int], tokens: int, length: int, *, adapters: bool = False
) -> float:
    """FLOPs of training some blocks on ``tokens`` tokens, all epochs counted.

    Args:
        model: Unchanged.
        blocks: Dense indices of remaining blocks.
        tokens: Of all windows and epochs together.
        length: Of a window.
        adapters: The matrices themselves are frozen and need no gradient.
    """
    return training_rule(*_size(model, blocks), tokens, length, adapters=adapters)


def head_flops(model: Model, tokens: int) -> float:
    """FLOPs of the logits of ``tokens`` tokens, forward."""
    config = model.text_config
    return 2.0 * config.vocab_size * config.hidden_size * tokens


def _size(model: Model, blocks: Sequence[int]) -> tuple[int, int]:
    values = sum(p.numel() for index in blocks for p in model.matrices(index).values())
    attending = {unit.index for unit in model.units("attention")}
    return values, model.text_config.hidden_size * len(attending.intersection(blocks))
