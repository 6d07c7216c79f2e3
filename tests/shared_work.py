"""Work of two processes, in the form of a verb; ``fusegpt.cli.ranks`` starts them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click
import torch

from fusegpt import parallel
from fusegpt.errors import NumericsError, Stopped
from fusegpt.nn.losses import kl_batch
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.training import Schedule, train

ROWS = 5


def batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets, ``[batch, seq, hidden]``."""
    draw = torch.Generator().manual_seed(number)
    return tuple(torch.randn(ROWS, 3, 4, generator=draw) for _ in range(2))


def gradient(number: int = 0) -> torch.Tensor:
    """Of the loss that couples the sequences of a batch, each process having its own."""
    weight = torch.nn.Parameter(torch.eye(4))
    idle, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    loss = loss_of(weight, number)
    if parallel.leads():
        loss = loss + idle.sum()
    loss.backward()
    parallel.average([weight, idle, unused])
    assert unused.grad is None
    assert torch.equal(idle.grad, torch.full((2,), 1 / parallel.processes()))
    return weight.grad


def loss_of(weight: torch.Tensor, number: int) -> torch.Tensor:
    inputs, targets = batch(number)
    mine = parallel.own(ROWS)
    found = parallel.gathered(inputs[mine] @ weight, ROWS)
    return kl_batch(found, parallel.gathered(targets[mine], ROWS))


def trained(checkpoint: Checkpoint | None = None, stop_at: int | None = None) -> torch.Tensor:
    """Eight optimiser steps; the leader hears of a signal within one of them."""
    weight = torch.nn.Parameter(torch.eye(4) + parallel.agreed(0.5))
    calls = 0

    def loss(number: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == stop_at and parallel.leads():
            os.kill(os.getpid(), signal.SIGUSR1)
        return loss_of(weight, number)

    train([([weight], 0.1)], loss, Schedule(2, 4), checkpoint=checkpoint, clip_norm=0.5)
    return weight.detach()


@click.command()
def compute(output: Path, device: str) -> None:
    """Write what each process came to."""
    whole = trained()
    state = Checkpoint(output / "resume.safetensors", "f", every_seconds=3600)
    try:
        trained(state, stop_at=3)
        raise AssertionError("must have stopped")
    except Stopped as stopped:
        assert stopped.number == signal.SIGTERM and "after optimiser step 3 of 8" in str(stopped)
    resumed = trained(Checkpoint(state.path, "f", every_seconds=3600))
    rank = int(not parallel.leads())
    found = {
        "gradient": gradient(),
        "trained": whole,
        "resumed": resumed,
        "sum": parallel.summed(0.1 + rank),
        "rows": torch.arange(ROWS)[parallel.own(ROWS)],
        "pairs": torch.arange(ROWS)[parallel.own(ROWS, 2)],
        "merged": parallel.merged({f"of {rank}": rank}),
        "agreed": parallel.agreed(f"of {rank}"),
    }
    torch.save(found, output / f"{rank}.pt")
    parallel.leader_goes_on()
    (output / "done").write_text(str(rank))


@click.command()
def fail(output: Path, device: str) -> None:
    """Let the second process fail while the leader waits for it."""
    if not parallel.leads():
        raise NumericsError("loss is nan at step 3")
    parallel.meet()


@click.command()
def die(output: Path, device: str) -> None:
    """Let the second process be killed while the leader waits for it."""
    if not parallel.leads():
        os.kill(os.getpid(), signal.SIGKILL)
    parallel.meet()


@click.command()
def stop(output: Path, device: str) -> None:
    """Tell the process that started this one to stop, and wait."""
    if parallel.leads():
        os.kill(os.getppid(), signal.SIGTERM)
    signal.pause()
