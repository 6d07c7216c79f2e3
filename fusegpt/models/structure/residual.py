"""The output projections of a block: matrices whose output is added to the residual stream.

They are found by pushing: shift the output of a matrix, and see where the same shift arrives.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fusegpt.errors import ArchitectureError
from fusegpt.models.model import Model
from fusegpt.models.structure.calls import Call
from fusegpt.models.structure.replay import head_logits, record

__all__ = [
    "OutputProjection",
    "check_head",
    "last_projection",
    "output_projections",
    "rescaled_projections",
    "watch_output",
]

TOLERANCE = 0.05
"""Greatest error of the arriving shift, relative to it; 16-bit rounding stays below, a shift that
went through a norm is far above."""

NEAR_ONE = 0.01
"""A factor this close to 1 is 1; in 16 bits it cannot be seen more exactly."""


@dataclass(frozen=True)
class OutputProjection:
    """A residual-stream output projection: a matrix whose output is added to the hidden states.

    Attributes:
        name: ``blocks.<dense index>.<module inside the block>``.
        module: A linear layer, or the transposed kind of GPT-2.
        factor: The number that the output is multiplied by before it is added.
    """

    name: str
    module: nn.Module
    factor: float

    @property
    def weight(self) -> nn.Parameter:
        """The matrix; a row per output, or a column in the transposed kind."""
        return self.module.get_parameter("weight")

    @property
    def bias(self) -> nn.Parameter | None:
        """The bias, if there is one."""
        return getattr(self.module, "bias", None)

    @property
    def transposed(self) -> bool:
        """Whether the matrix has a column per output."""
        return isinstance(self.module, Conv1D)


@torch.no_grad()
def output_projections(model: Model, index: int, batch: Tensor) -> list[OutputProjection]:
    """Return the output projections of a block, in order of execution.

    Args:
        model: Unchanged.
        index: A remaining block.
        batch: Token ids ``[batch, seq]`` that run through it.
    """
    block, call, hidden, shift = _prepared(model, index, batch)
    quiet, order = _trace(block, call, hidden, None)
    found = []
    for module, name in order:
        pushed, _ = _trace(block, call, hidden, (module, shift))
        factor = _arriving(quiet, pushed, shift)
        if factor is not None:
            found.append(OutputProjection(f"blocks.{index}.{name}", module, factor))
    return found


@torch.no_grad()
def last_projection(model: Model, index: int, batch: Tensor) -> OutputProjection:
    """Return the output projection whose output, unchanged, is the last addition of a block.

    Raises:
        ArchitectureError: There is none: a norm or a gate follows it, or experts share the work.
    """
    block, call, hidden, shift = _prepared(model, index, batch)
    quiet, order = _trace(block, call, hidden, None)
    for module, name in order[::-1]:
        pushed, _ = _trace(block, call, hidden, (module, shift))
        factor = _arriving(quiet[-1:], pushed[-1:], shift)
        if factor is not None:
            return OutputProjection(f"blocks.{index}.{name}", module, factor)
    raise ArchitectureError(
        f"{type(model.module).__name__}: block {index} ({type(block).__name__}) has no matrix that"
        " writes straight to the hidden states (a norm follows it, or experts share the work);"
        " nothing can be folded into it"
    )


@torch.no_grad()
def rescaled_projections(
    model: Model, index: int, batch: Tensor, scale: float
) -> dict[str, Tensor]:
    """Return a block's output projections divided by ``scale``, for hidden states divided by it.

    Behind norms a block computes the same from smaller hidden states, so that only what it adds
    has to shrink with them. That this holds is tried with a scale of 2.

    Args:
        model: Unchanged.
        index: A remaining block.
        batch: Token ids ``[batch, seq]`` to try it on.
        scale: Positive.

    Returns:
        Weights and biases by parameter name, model dtype.

    Raises:
        ArchitectureError: The block does not shrink with its input.
    """
    found = output_projections(model, index, batch)
    block, call, hidden, _ = _prepared(model, index, batch)
    parameters = {f"{w.name}.weight": w.weight for w in found}
    parameters |= {f"{w.name}.bias": w.bias for w in found if w.bias is not None}
    plain = call.run(block, hidden)
    kept = {name: parameter.clone() for name, parameter in parameters.items()}
    try:
        for parameter in parameters.values():
            parameter.div_(2)
        halved = call.run(block, hidden / 2)
    finally:
        for name, parameter in parameters.items():
            parameter.copy_(kept[name])
    if _distance(2 * halved, plain, plain - hidden) > TOLERANCE:
        raise ArchitectureError(
            f"{type(model.module).__name__}: block {index} ({type(block).__name__}) does not shrink"
            " with its input when its output matrices do (norms after them, or experts); a rescale"
            " of the hidden states cannot be folded"
        )
    return {name: (value.double() / scale).to(value.dtype) for name, value in kept.items()}


@torch.no_grad()
def check_head(model: Model, batch: Tensor) -> None:
    """Check that the logits do not depend on the length of the last hidden states.

    Raises:
        ArchitectureError: They do.
    """
    hidden = record(model, batch).hidden_out
    plain, halved = (head_logits(model, batch, states) for states in (hidden, hidden / 2))
    if _distance(halved, plain, plain) > TOLERANCE:
        raise ArchitectureError(
            f"{type(model.module).__name__}: its logits depend on the length of the hidden states"
            " (no norm before the head); a rescale of them cannot be folded"
        )


def _distance(one: Tensor, other: Tensor, measure: Tensor) -> float:
    difference = (one.float() - other.float()).square().mean()
    return (difference / measure.float().square().mean()).sqrt().item()


@contextmanager
def watch_output(module: nn.Module) -> Any:
    """Inside, yield a list that gains every output of a module, detached."""
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda _, args, output: outputs.append(output.detach()))
    try:
        yield outputs
    finally:
        handle.remove()


def _prepared(model: Model, index: int, batch: Tensor) -> tuple[nn.Module, Call, Tensor, Tensor]:
    """Return the block, its call, what enters it, and a shift ``[hidden]`` of that size."""
    position = model.position(index)
    seen = record(model, batch, position, position)
    size = seen.hidden_in.float().square().mean().sqrt().cpu()
    draw = torch.Generator().manual_seed(0)
    shift = torch.randn(seen.hidden_in.shape[-1], generator=draw) * size
    return model.block(index), seen.calls[0], seen.hidden_in, shift.to(seen.hidden_in)


def _trace(
    block: nn.Module, call: Call, hidden: Tensor, push: tuple[nn.Module, Tensor] | None
) -> tuple[list[Tensor], list[tuple[nn.Module, str]]]:
    """Run a block, one output shifted; return what its small parts read, and its output last."""
    points: list[Tensor] = []
    order: list[tuple[nn.Module, str]] = []
    handles = []

    def after(name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            if _fits(output, hidden):
                order.append((module, name))
            return output + push[1] if push and push[0] is module else None

        return hook

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and _fits(args[0], hidden):
            points.append(args[0].reshape(hidden.shape))

    for name, module in block.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)):
            handles.append(module.register_forward_hook(after(name)))
        elif _is_norm(module):
            handles.append(module.register_forward_pre_hook(before))
    try:
        output = call.run(block, hidden)
    finally:
        for handle in handles:
            handle.remove()
    return [*points, output], order


def _fits(value: Any, hidden: Tensor) -> bool:
    """Whether a value has the hidden states' features and tokens; some models flatten tokens."""
    same = isinstance(value, Tensor) and value.shape[-1] == hidden.shape[-1]
    return same and value.numel() == hidden.numel()


def _is_norm(module: nn.Module) -> bool:
    """A part without parts that has parameters but no matrix, or calls itself a norm."""
    parametric = any(True for _ in module.parameters())
    return not list(module.children()) and (parametric or "norm" in type(module).__name__.lower())


def _arriving(quiet: list[Tensor], pushed: list[Tensor], shift: Tensor) -> float | None:
    """Return by what factor the shift arrives at the first point it reaches unchanged, if any."""
    shift = shift.double()
    for one, other in zip(quiet, pushed, strict=True):
        difference = other.double() - one.double()
        factor = ((difference @ shift).mean() / (shift @ shift)).item()
        rest = (difference - factor * shift).square().mean().sqrt()
        if (
            abs(factor) > TOLERANCE
            and rest < TOLERANCE * abs(factor) * shift.square().mean().sqrt()
        ):
            return 1.0 if abs(factor - 1) < NEAR_ONE else factor
    return None
