"""SIGTERM and SIGHUP: the position is saved, one line is said, and the code names the signal."""

from __future__ import annotations

import os
import signal
import time

import click
import pytest
import torch

from fusegpt.cli import run
from fusegpt.cli.guard import guarded
from fusegpt.cli.options import output_path
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.training import Schedule, train
from fusegpt.results.unfinished import read_unfinished


@pytest.fixture(autouse=True)
def hangups_are_heard():
    """Whoever starts the tests may ignore SIGHUP, as nohup does; children inherit that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


CODES = [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGHUP, 129, "SIGHUP")]


def tuned(checkpoint: Checkpoint | None, signal_at: int | None = None, number: int = 0):
    """Eight optimiser steps on two values; a signal comes within one of them."""
    values = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    calls = 0

    def loss(batch: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == signal_at:
            os.kill(os.getpid(), number)
        return ((values - batch) ** 2).sum()

    rows = train([([values], 0.1)], loss, Schedule(2, 4), checkpoint=checkpoint)
    return values.detach(), rows


def verb(name: str, body) -> click.Command:
    @click.command()
    @click.option("--output", type=output_path)
    def command(output):
        body(output)

    return guarded(name, command)


@pytest.mark.parametrize(("number", "code", "name"), CODES)
@pytest.mark.parametrize(("at", "left"), [(1, 7), (3, 5), (8, 0)])
@pytest.mark.parametrize("which", ["fuse", "merge"])
def test_a_tuning_saves_its_position_and_goes_on_to_the_same_bits(
    which, at, left, number, code, name, tmp_path, capsys
):
    place = tmp_path / "state" / "resume.safetensors"
    before = signal.getsignal(number)

    def body(output):
        tuned(Checkpoint(place, "f", every_seconds=3600), at, number)

    assert run(verb(which, body), ["--output", str(tmp_path / "out")]) == code

    assert capsys.readouterr().err.strip().splitlines() == [
        f"fusegpt: stopped by {name}; saved after optimiser step {at} of 8 in {place};"
        " run again to go on"
    ]
    assert len(read_unfinished(place).rows) == 8 - left
    assert signal.getsignal(number) == before
    assert sorted(os.listdir(tmp_path)) == ["state"]
    values, rows = tuned(Checkpoint(place, "f", every_seconds=3600))
    whole, all_rows = tuned(None)
    assert torch.equal(values, whole) and rows == all_rows


def test_under_nohup_a_hangup_stops_nothing(tmp_path):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    place = tmp_path / "resume.safetensors"

    def body(output):
        tuned(Checkpoint(place, "f", every_seconds=3600), 3, signal.SIGHUP)

    assert run(verb("fuse", body), ["--output", str(tmp_path / "out")]) == 0
    assert not place.exists()


@pytest.mark.parametrize(("number", "code", "name"), CODES)
@pytest.mark.parametrize("which", ["fetch", "sample", "score", "fuse", "merge", "prune", "slice"])
def test_other_work_stops_at_once_and_leaves_nothing_half_written(
    which, number, code, name, tmp_path, capsys
):
    suffix = {"sample": ".parquet", "score": ".json"}.get(which, "")

    def body(output):
        os.kill(os.getpid(), number)
        time.sleep(5)
        raise AssertionError("must have stopped")

    assert run(verb(which, body), ["--output", str(tmp_path / f"out{suffix}")]) == code

    assert capsys.readouterr().err.strip() == f"fusegpt: stopped by {name}"
    assert os.listdir(tmp_path) == []


def test_a_second_signal_does_not_wait_for_the_step(tmp_path):
    def body(output):
        def loss(batch: int) -> torch.Tensor:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("must have stopped")

        parameter = torch.nn.Parameter(torch.ones(1))
        checkpoint = Checkpoint(tmp_path / "r", "f")
        train([([parameter], 0.1)], loss, Schedule(1, 4), checkpoint=checkpoint)

    assert run(verb("fuse", body), ["--output", str(tmp_path / "out")]) == 143
    assert os.listdir(tmp_path) == []
