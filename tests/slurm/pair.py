"""Lock two GPUs and work in two processes; write down which device each saw, and their sum."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from fusegpt import parallel
from fusegpt.cli.ranks import run_ranks
from fusegpt.devices import device_lock
from fusegpt.registry import Entry


@click.command()
def note(device: str, output: str) -> None:
    """What one process does; the numbers 0 and 1 of the processes add up to 1."""
    seen = parallel.merged({str(parallel.own(2).start): os.environ["CUDA_VISIBLE_DEVICES"]})
    total = parallel.summed(float(parallel.own(2).start))
    if parallel.leads():
        Path(output).write_text(f"{seen['0']} {seen['1']} {total:g}\n")


if __name__ == "__main__":
    with device_lock("cuda", 2, wait_seconds=60) as devices:
        given = {"device": "cpu", "output": sys.argv[1]}
        run_ranks("pair", given, 2, devices, Entry("tests.slurm.pair:note"))
