"""Several processes inside one job, one for each device: who does what, and what they exchange.

Each has the whole model and a part of the windows. Where a process is alone, every function gives
back what it was given.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.nn.functional import pad

from fusegpt.errors import ConfigError

__all__ = [
    "agreed",
    "alike",
    "average",
    "check_batch",
    "gathered",
    "joined",
    "largest",
    "leader_goes_on",
    "leads",
    "meet",
    "merged",
    "own",
    "processes",
    "summed",
]

PATIENCE = timedelta(days=30)
"""One may wait for what another does alone; whoever started them notices a dead one."""

_rank, _processes = 0, 1

Value = TypeVar("Value")


class _Done(BaseException):
    """What a process had to do is done."""


@contextlib.contextmanager
def joined(rank: int, count: int, meeting: Path, device: str) -> Iterator[None]:
    """Be one of several processes of one machine inside.

    Args:
        rank: Number of this process; 0 leads: it alone writes files and logs.
        count: Number of processes.
        meeting: A file that none of them has written yet, the same for all.
        device: ``cpu``, or ``cuda``: then each process sees one GPU, its own.
    """
    global _rank, _processes
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a machine's name may lead nowhere
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=count,
        timeout=PATIENCE,
    )
    _rank, _processes = rank, count
    with contextlib.suppress(_Done):
        yield  # after an error the group is left as it is: taking it down waits for the others
    _rank, _processes = 0, 1
    distributed.destroy_process_group()


def processes() -> int:
    """Return how many processes work together."""
    return _processes


def leads() -> bool:
    """Return whether this process is the one that writes."""
    return _rank == 0


def leader_goes_on() -> None:
    """End the work of every other process here, well."""
    if _rank:
        raise _Done


def check_batch(batch_size: int, name: str) -> None:
    """Refuse more processes than a batch has windows.

    Raises:
        ConfigError: There are; the message starts with ``name``.
    """
    if batch_size < _processes:
        raise ConfigError(
            f"{name}: must have a window for each of {_processes} processes, is {batch_size};"
            " ask for fewer devices"
        )


def own(count: int, step: int = 1) -> slice:
    """Return which of ``count`` things are this process's.

    Args:
        count: How many there are.
        step: Cuts are at multiples of it.
    """
    return _parts(count, step)[_rank]


def gathered(part: Tensor, count: int, step: int = 1) -> Tensor:
    """Return the parts of all processes as one tensor, with a gradient.

    Every process computes the same from it, and its gradient here is as many times the true one
    as there are processes, since ``average`` divides by their number.

    Args:
        part: ``[own, ...]``: the rows ``own(count, step)`` of the whole.
        count: Rows of the whole.
        step: As for ``own``.
    """
    if _processes == 1:
        return part
    whole: Tensor = _Gathered.apply(part, _parts(count, step), _rank)  # type: ignore[no-untyped-call]
    return whole


def average(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Give each parameter the mean of its gradients in all processes; none counts as zero."""
    if _processes == 1:
        return
    parameters = list(parameters)
    there = torch.tensor([parameter.grad is not None for parameter in parameters]).int()
    distributed.all_reduce(there, distributed.ReduceOp.MAX)
    for parameter, somewhere in zip(parameters, there.tolist(), strict=True):
        if somewhere:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            distributed.all_reduce(parameter.grad)
            parameter.grad /= _processes


def alike(tensors: Iterable[Tensor]) -> None:
    """Give every process the leader's values."""
    for tensor in tensors if _processes > 1 else ():
        distributed.broadcast(tensor.detach(), 0)


def agreed(value: Value) -> Value:
    """Return what the leader has; all must ask."""
    if _processes == 1:
        return value
    said: list[Any] = [value]
    distributed.broadcast_object_list(said, 0, device=torch.device("cpu"))
    found: Value = said[0]
    return found


def merged(own: Mapping[str, Value]) -> dict[str, Value]:
    """Return the entries of all processes."""
    if _processes == 1:
        return dict(own)
    found: list[Any] = [None] * _processes
    distributed.all_gather_object(found, dict(own))
    return {name: value for each in found for name, value in each.items()}


def summed(value: float) -> float:
    """Return the sum over all processes, to the same last bit in each."""
    return value if _processes == 1 else float(_everywhere(value).sum())


def largest(value: int) -> int:
    """Return the largest value that any process has."""
    return value if _processes == 1 else int(_everywhere(value).max())


def meet() -> None:
    """Wait until all processes are here."""
    largest(0)


def _everywhere(value: float) -> Tensor:
    found = [torch.zeros((), dtype=torch.float64) for _ in range(_processes)]
    distributed.all_gather(found, torch.tensor(value, dtype=torch.float64))
    return torch.stack(found)


def _parts(count: int, step: int) -> list[slice]:
    steps = -(-count // step)
    ends = [min(count, rank * steps // _processes * step) for rank in range(_processes + 1)]
    return [slice(*ends[rank : rank + 2]) for rank in range(_processes)]


class _Gathered(torch.autograd.Function):
    """Parts of unequal length along the first axis, each sent as long as the longest."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, parts: Sequence[slice], rank: int) -> Tensor:
        sizes = [each.stop - each.start for each in parts]
        ctx.own, ctx.factor = parts[rank], len(parts)
        missing = max(sizes) - len(part)
        sent = pad(part, [0, 0] * (part.dim() - 1) + [0, missing]).contiguous()
        found = [torch.empty_like(sent) for _ in sizes]
        distributed.all_gather(found, sent)
        return torch.cat([each[:size] for each, size in zip(found, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][ctx.own] * ctx.factor, None, None
