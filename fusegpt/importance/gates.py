"""Gates: what each unit adds is faded out until the model is smaller, the dearest ones last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fusegpt.importance.checks import finite
from fusegpt.importance.drawn import Gates
from fusegpt.importance.losses import sequence_loss
from fusegpt.models.model import Model
from fusegpt.models.structure.branches import find_branches, parameters_of
from fusegpt.models.structure.calls import take_hidden
from fusegpt.units import Unit

__all__ = ["gates", "opened", "shifted"]


def gates(
    model: Model,
    batches: Sequence[Tensor],
    units: Sequence[Unit],
    settings: Gates = Gates(),
) -> Tensor:
    """Score each unit by the gate that is learned in front of what it adds.

    A gate g lets s = g²/(g² + epsilon) through, so that it ends near open or shut. Each step goes
    down the gradient of L + polarise · mean s·(1 - s), L the mean loss of the next token; then all
    gates are lowered alike until the values of the matrices behind them, each counted by s, are
    as few as the step asks for: in the end ``share`` fewer.
    Source: FoldGPT, arXiv 2407.00928 (decision D59).

    Args:
        model: The model as pruned so far, in eval mode. Unchanged on return.
        batches: Calibration token ids, each ``[batch, seq]`` int64, without padding. One sequence
            at a time goes through the model.
        units: The units still present.
        settings: How many steps, how long, and how far.

    Returns:
        ``[units]`` float64 on the CPU: the gates' parameters; 1 at the start, 0 or less is shut.

    Raises:
        NumericsError: A gradient is NaN or infinite. The message names the unit.
    """
    owned = [sum(p.numel() for p in parameters_of(model, unit).values()) for unit in units]
    size = torch.tensor(owned, dtype=torch.float64) / sum(owned)
    learned, epsilon = torch.ones(len(units), dtype=torch.float64), settings.epsilon
    begun = 1 / (1 + epsilon)
    for step in range(1, settings.steps + 1):
        through = opened(learned, epsilon)
        slope = _slope(model, batches, units, through)
        slope += settings.polarise * (1 - 2 * through) / len(units)
        turn = 2 * learned * epsilon / (learned.square() + epsilon).square()
        slope = finite("gates", units, slope * turn.where(learned > 0, turn.new_tensor(0.0)))
        learned = learned - settings.learning_rate * slope / slope.abs().max().clamp_min(1e-300)
        asked = begun * (1 - settings.share * step / settings.steps)
        learned = shifted(learned, size, asked, epsilon)
    return learned


def opened(learned: Tensor, epsilon: float) -> Tensor:
    """Return what gates let through, in [0, 1): g²/(g² + epsilon), and nothing below 0."""
    square = learned.clamp_min(0).square()
    return square / (square + epsilon)


def shifted(learned: Tensor, size: Tensor, asked: float, epsilon: float) -> Tensor:
    """Return the gates, all lowered or raised alike so that they let a given part through.

    Args:
        learned: ``[units]`` float64.
        size: The units' parts of all values, ``[units]``, which add up to 1.
        asked: The part that is let through afterwards, in (0, 1).
        epsilon: How soft the gates are.
    """
    low, high = float(-learned.max()), float(1e3 - learned.min())
    for _ in range(100):  # more often than float64 has bits
        middle = (low + high) / 2
        if float(size @ opened(learned + middle, epsilon)) < asked:
            low = middle
        else:
            high = middle
    return learned + high


def _slope(
    model: Model, batches: Sequence[Tensor], units: Sequence[Unit], through: Tensor
) -> Tensor:
    """Return the gradient of the mean loss by what the gates let through, float64 on the CPU."""
    leaf = through.float().to(model.device).requires_grad_(True)
    total = torch.zeros_like(through)
    with torch.enable_grad(), _gated(model, units, leaf):
        for tokens in (row for batch in batches for row in batch.split(1)):
            logits = model.module(**model.inputs(tokens), use_cache=False).logits
            loss = sequence_loss(logits, tokens)
            (found,) = torch.autograd.grad(loss, leaf, allow_unused=True, materialize_grads=True)
            total += found.double().cpu()
    return total / sum(len(batch) for batch in batches)


@contextmanager
def _gated(model: Model, units: Sequence[Unit], through: Tensor) -> Iterator[None]:
    """Inside, each unit adds only what its gate lets through."""
    handles = []
    for number, unit in enumerate(units):
        block = model.block(unit.index)
        if unit.kind == "block":
            hook = _fading(through[number])
            handles.append(block.register_forward_hook(hook, with_kwargs=True))
            continue
        for name in find_branches(model, unit.index).sublayers[unit.kind].zero:
            part = block.get_submodule(name)
            handles.append(part.register_forward_hook(_scaling(through[number])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _fading(gate: Tensor) -> Callable[..., Any]:
    def hook(block: Any, args: Any, kwargs: Any, output: Any) -> Any:
        entering, _ = take_hidden(args, kwargs)
        return _first(output, lambda hidden: entering + gate.to(hidden.dtype) * (hidden - entering))

    return hook


def _scaling(gate: Tensor) -> Callable[..., Any]:
    def hook(part: Any, args: Any, output: Any) -> Any:
        return _first(output, lambda added: gate.to(added.dtype) * added)

    return hook


def _first(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Change a tensor, or the first one of a tuple or list."""
    if isinstance(output, (tuple, list)):
        return type(output)((change(output[0]), *output[1:]))
    return change(output)
