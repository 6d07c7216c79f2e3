"""What a model calls a block with, apart from the hidden states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from fusegpt.errors import ArchitectureError

__all__ = ["Call", "hidden_of", "more_of", "same_calls", "share_calls", "take_hidden"]

_ALONE: WeakSet[nn.Module] = WeakSet()
"""Blocks that are handed what the block before computed, and do not look at it."""


@dataclass(frozen=True)
class Call:
    """How the model called one block: everything but the hidden states.

    Attributes:
        args: Positional arguments; the hidden states' place holds None.
        kwargs: Keyword arguments; the hidden states' place holds None here, too.
        hidden_key: Position or keyword of the hidden states; None when the model skipped
            the block (image blocks of some models, when there is no image).
        fed: Positions and keywords of further tensors that the block before computed.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    hidden_key: int | str | None
    fed: tuple[int | str, ...] = ()

    def run(self, block: Callable[..., Any], hidden: Tensor) -> Tensor:
        """Call ``block`` on other hidden states ``[batch, seq, hidden]``; differentiable.

        Raises:
            ArchitectureError: What it puts out also depends on something else that the block
                before computed, which would not be what it is in the model.
        """
        if self.hidden_key is None:
            return hidden
        if self.fed and isinstance(block, nn.Module) and block not in _ALONE:
            self._check_alone(block, hidden)
        return hidden_of(block(*self._args(hidden), **self._kwargs(hidden)))

    def _args(self, hidden: Tensor) -> list[Any]:
        return [hidden if self.hidden_key == key else x for key, x in enumerate(self.args)]

    def _kwargs(self, hidden: Tensor) -> dict[str, Any]:
        return {key: hidden if self.hidden_key == key else x for key, x in self.kwargs.items()}

    @torch.no_grad()
    def _check_alone(self, block: nn.Module, hidden: Tensor) -> None:
        """Try whether zeros in place of what the block before computed change anything."""
        args, kwargs = self._args(hidden), self._kwargs(hidden)
        plain = hidden_of(block.forward(*args, **kwargs))
        for key in self.fed:
            of: Any = args if isinstance(key, int) else kwargs
            of[key] = torch.zeros_like(of[key])
        if not torch.equal(hidden_of(block.forward(*args, **kwargs)), plain):
            raise ArchitectureError(
                f"{type(block).__name__}: blocks get more from each other than hidden states, so"
                " running some of them alone, or without one of them, is not what the model would"
                " compute; use a metric that runs only the whole model (block_influence,"
                " last_blocks, given) and recovery none"
            )
        _ALONE.add(block)


def same_calls(one: Sequence[Call], other: Sequence[Call]) -> bool:
    """Whether two batches' calls are equal to the last bit, so that one list can serve both."""
    seen: dict[tuple[int, int], bool] = {}
    return len(one) == len(other) and all(
        a.hidden_key == b.hidden_key and _same((a.args, a.kwargs), (b.args, b.kwargs), seen)
        for a, b in zip(one, other, strict=True)
    )


def share_calls(calls: list[Call], known: list[Call] | None) -> list[Call]:
    """Return ``known`` when it equals ``calls``, so that equal batches hold one set of masks."""
    return known if known is not None and same_calls(calls, known) else calls


def take_hidden(
    args: tuple[Any, ...], kwargs: dict[str, Any], more: Sequence[Any] = ()
) -> tuple[Tensor, Call]:
    """Take the hidden states out of a block's arguments.

    Args:
        args: Positional ones.
        kwargs: By keyword.
        more: What the block before returned besides hidden states.
    """
    given = {id(one) for one in more if isinstance(one, Tensor)}
    places: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    fed = tuple(key for key, value in places if id(value) in given)
    if args and isinstance(args[0], Tensor):
        return args[0], Call((None, *args[1:]), dict(kwargs), 0, fed)
    if isinstance(kwargs.get("hidden_states"), Tensor):
        rest = {**kwargs, "hidden_states": None}
        return kwargs["hidden_states"], Call(args, rest, "hidden_states", fed)
    raise ArchitectureError(
        "a block must get its hidden states first or as hidden_states=, "
        f"got {len(args)} positional arguments and {sorted(kwargs)}"
    )


def more_of(output: Any) -> Sequence[Any]:
    """Return what a block returned besides the hidden states."""
    return output[1:] if isinstance(output, (tuple, list)) else ()


def hidden_of(output: Any) -> Tensor:
    """Return the hidden states ``[batch, seq, hidden]`` among what a block returned."""
    found: Tensor = output[0] if isinstance(output, (tuple, list)) else output
    return found


def _same(one: Any, other: Any, seen: dict[tuple[int, int], bool]) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        key = (id(one), id(other))
        if key not in seen:
            seen[key] = one.dtype == other.dtype and torch.equal(one, other)
        return seen[key]
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[k], other[k], seen) for k in one)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(
            _same(a, b, seen) for a, b in zip(one, other, strict=True)
        )
    return bool(one == other)
