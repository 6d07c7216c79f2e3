"""What a model calls a block with, apart from the hidden states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fusegpt.errors import ArchitectureError

__all__ = ["Call", "hidden_of", "same_calls", "share_calls", "take_hidden"]


@dataclass(frozen=True)
class Call:
    """How the model called one block: everything but the hidden states.

    Attributes:
        args: Positional arguments; the hidden states' place holds None.
        kwargs: Keyword arguments; the hidden states' place holds None here, too.
        hidden_key: Position or keyword of the hidden states; None when the model skipped
            the block (image blocks of some models, when there is no image).
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    hidden_key: int | str | None

    def run(self, block: Callable[..., Any], hidden: Tensor) -> Tensor:
        """Call ``block`` on other hidden states ``[batch, seq, hidden]``; differentiable."""
        if self.hidden_key is None:
            return hidden
        args, kwargs = list(self.args), dict(self.kwargs)
        if isinstance(self.hidden_key, int):
            args[self.hidden_key] = hidden
        else:
            kwargs[self.hidden_key] = hidden
        return hidden_of(block(*args, **kwargs))


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


def take_hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Call]:
    """Take the hidden states out of a block's arguments."""
    if args and isinstance(args[0], Tensor):
        return args[0], Call((None, *args[1:]), dict(kwargs), 0)
    if isinstance(kwargs.get("hidden_states"), Tensor):
        rest = {**kwargs, "hidden_states": None}
        return kwargs["hidden_states"], Call(args, rest, "hidden_states")
    raise ArchitectureError(
        "a block must get its hidden states first or as hidden_states=, "
        f"got {len(args)} positional arguments and {sorted(kwargs)}"
    )


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
