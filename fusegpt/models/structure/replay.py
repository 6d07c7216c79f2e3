"""Running a range of blocks on given hidden states, with the arguments of the real forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fusegpt.errors import ArchitectureError
from fusegpt.models.model import Model
from fusegpt.models.structure.calls import Call, hidden_of, more_of, take_hidden

__all__ = [
    "Injector",
    "Recording",
    "StopForward",
    "head_logits",
    "record",
    "returned_length",
    "run_blocks",
]


@dataclass(frozen=True)
class Recording:
    """What one forward pass showed.

    Attributes:
        hidden_in: ``[batch, seq, hidden]`` entering the first recorded block.
        calls: One call per recorded block.
        hidden_out: ``[batch, seq, hidden]`` leaving the last recorded block.
        states: ``[batch, seq, hidden]`` entering each recorded block, when they were kept.
    """

    hidden_in: Tensor
    calls: list[Call]
    hidden_out: Tensor
    states: list[Tensor] = field(default_factory=list)


def record(
    model: Model,
    batch: Tensor | Mapping[str, Tensor],
    first: int | None = None,
    last: int | None = None,
    *,
    keep_states: bool = False,
) -> Recording:
    """Run the model up to block ``last`` and note how blocks ``first`` to ``last`` were called.

    Gradients flow unless the caller turned them off.

    Args:
        model: In eval mode; unchanged on return.
        batch: Token ids ``[batch, seq]``, or a mapping of inputs.
        first: Position in the list of remaining blocks; None: the first block.
        last: Position in the list of remaining blocks, inclusive; None: the last block.
        keep_states: Also return what enters every recorded block.

    Raises:
        ArchitectureError: The model does something between the blocks, or runs one twice, so
            that running them alone would not be the same.
    """
    blocks = model.blocks
    first = 0 if first is None else first
    last = len(blocks) - 1 if last is None else last
    assert 0 <= first <= last < len(blocks), (first, last, len(blocks))
    watch = _Watch(model, first, last, keep_states)
    handles = []
    for position, block in enumerate(blocks):
        if position == first - 1:
            handles.append(block.register_forward_hook(watch.passed))
        if position < first:
            continue
        handles.append(block.register_forward_pre_hook(watch.before(position), with_kwargs=True))
        handles.append(block.register_forward_hook(watch.after(position)))
    try:
        model.module(**model.inputs(batch), use_cache=False)
    except StopForward:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return watch.recording()


def run_blocks(blocks: Sequence[Any], calls: Sequence[Call], hidden: Tensor) -> Tensor:
    """Run ``blocks`` one after the other, each as in its call; differentiable.

    Args:
        blocks: The blocks, or what computes the same, as many as ``calls``.
        calls: From ``record``.
        hidden: What enters the first one, ``[batch, seq, hidden]``.
    """
    for block, call in zip(blocks, calls, strict=True):
        hidden = call.run(block, hidden)
    return hidden


def head_logits(model: Model, batch: Tensor | Mapping[str, Tensor], hidden: Tensor) -> Tensor:
    """Logits of hidden states that left the last block; differentiable.

    The real module runs, with blocks that hand over ``hidden`` instead of computing, so that
    norm, projections and soft-capping are the model's own.

    Args:
        model: Unchanged on return.
        batch: The inputs ``hidden`` came from.
        hidden: ``[batch, seq, hidden]``.

    Returns:
        ``[batch, seq, vocab]`` in the model's dtype.
    """
    inputs, length = model.inputs(batch), returned_length(model)
    value = (hidden, *[None] * (length - 1)) if length else hidden
    listed = model.block_list._modules
    real = dict(listed)
    listed.update({name: Injector(block, value) for name, block in real.items()})
    try:
        found: Tensor = model.module(**inputs, use_cache=False).logits
        return found
    finally:
        listed.update(real)


class StopForward(Exception):
    """Ends a forward pass after the last block of interest."""


@dataclass
class _Watch:
    """What the hooks see in one forward pass."""

    model: Model
    first: int
    last: int
    keep_states: bool = False
    calls: dict[int, Call] = field(default_factory=dict)
    states: dict[int, Tensor] = field(default_factory=dict)
    hidden_in: Tensor | None = None
    hidden_out: Tensor | None = None
    more: Sequence[Any] = ()

    def passed(self, block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.more = more_of(output)

    def before(self, position: int) -> Any:
        def hook(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if position > self.last:
                raise StopForward
            if position in self.calls:
                raise ArchitectureError(f"{self._name(position)} runs twice in one forward pass")
            hidden, call = take_hidden(args, kwargs, self.more)
            if self.hidden_in is None or self.hidden_out is None:
                self.hidden_in = hidden
            elif not (hidden is self.hidden_out or torch.equal(hidden, self.hidden_out)):
                raise ArchitectureError(
                    f"{self._name(position)} does not read what the block before it wrote; "
                    "the model changes the hidden states between its blocks"
                )
            self.calls[position] = call
            if self.keep_states:
                self.states[position] = hidden

        return hook

    def after(self, position: int) -> Any:
        def hook(block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self.hidden_out, self.more = hidden_of(output), more_of(output)
            self.model.returns = len(output) if isinstance(output, (tuple, list)) else 0
            if position == self.last:
                raise StopForward

        return hook

    def recording(self) -> Recording:
        if self.hidden_in is None or self.hidden_out is None:
            raise ArchitectureError(
                f"{self._name(self.first)} to {self._name(self.last)} never ran on these inputs"
            )
        absent = Call((), {}, None)
        calls = [self.calls.get(i, absent) for i in range(self.first, self.last + 1)]
        return Recording(self.hidden_in, calls, self.hidden_out, self._states())

    def _states(self) -> list[Tensor]:
        """What enters each block; a block that was skipped gets what the next one got."""
        following, found = self.hidden_out, []
        for position in range(self.last, self.first - 1, -1) if self.keep_states else ():
            following = self.states.get(position, following)
            found.append(following)
        return found[::-1]  # type: ignore[return-value]

    def _name(self, position: int) -> str:
        return f"{type(self.model.module).__name__}: block {self.model.kept[position]}"


class Injector(nn.Module):
    """Stands where a block stood, and returns what it was given beforehand."""

    def __init__(self, block: nn.Module, value: Any) -> None:
        super().__init__()
        # in a list, so that the block is not registered as a child
        self.__dict__["replaced"] = [block]
        self.__dict__["value"] = value

    def __getattr__(self, name: str) -> Any:
        """Parents ask their blocks for attention types and the like."""
        return getattr(self.__dict__["replaced"][0], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what was given."""
        return self.__dict__["value"]


@torch.no_grad()
def returned_length(model: Model) -> int:
    """Length of the tuple that blocks return, 0 for a bare tensor; the first call runs a block."""
    if model.returns is None:
        record(model, torch.zeros(1, 2, dtype=torch.int64), 0, 0)
    assert model.returns is not None
    return model.returns
