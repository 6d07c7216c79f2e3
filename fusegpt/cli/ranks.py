"""A verb in several processes, one for each device: they end together, with one error at most.

The process that was started keeps the locks and hears the signals; it imports no torch. Of those
that it starts the first leads: it alone logs, and writes.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import click

from fusegpt.errors import ConfigError, FuseGPTError, Stopped
from fusegpt.pace import heartbeat
from fusegpt.registry import Entry, lookup
from fusegpt.runtime import allow_remote_code, remote_code_is_allowed, set_up_logging
from fusegpt.signals import RELAYED, relayed

__all__ = ["run_ranks", "splits"]

logger = logging.getLogger(__name__)

GRACE_SECONDS = 5.0
"""How long others may take to tell their error after the first one told its own."""


def splits(verb: str, given: Mapping[str, Any]) -> bool:
    """Return whether several processes can share what a verb was asked; if not, the log says so.

    Raises:
        ConfigError: The verb always works in one process.
    """
    from fusegpt.evaluation import EVALS
    from fusegpt.pruning.recipe import read_recipe

    if verb == "fuse":
        recipe = read_recipe(given["recipe"])
        able = recipe.recovery.splits and recipe.rerank is None
    elif verb == "evaluate":
        names = [entry["eval"] for _, entry in given["entries"]] or [given["name"]]
        able = any(lookup(EVALS, name, "evaluation").splits for name in names)
    elif verb == "finish":
        able = True
    else:
        raise ConfigError(
            f"device: {verb} works in one process, got {given['device']!r}; leave out the number"
        )
    if not able:
        logger.info("%s: nothing here is shared; one process works, on one device", verb)
    return able


@dataclass(frozen=True)
class _Place:
    """What one of the processes is told of itself."""

    rank: int
    count: int
    meeting: Path
    sees: str | None
    work: Entry | None
    level: int = field(default_factory=lambda: logging.getLogger("fusegpt").level)
    remote: bool = field(default_factory=remote_code_is_allowed)


def run_ranks(
    verb: str,
    given: Mapping[str, Any],
    count: int,
    devices: str | None,
    work: Entry | None = None,
) -> None:
    """Run a verb in several processes; return when all of them are done.

    Args:
        verb: Its name.
        given: Its options, ``device`` without a number.
        count: Number of processes.
        devices: Of which each gets one, as CUDA_VISIBLE_DEVICES names them; None: there are none.
        work: Where the verb's command is; None: in the table of verbs.

    Raises:
        Exception: What the first of them raised that raised anything.
    """
    logger.info("%s in %d processes%s", verb, count, f", on GPUs {devices}" if devices else "")
    ranks: list[tuple[SpawnProcess, Connection]] = []
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="fusegpt-") as folder:
        try:
            for rank in range(count):
                ours, theirs = context.Pipe(duplex=False)
                sees = devices.split(",")[rank] if devices else None
                own = _Place(rank, count, Path(folder, "meeting"), sees, work)
                process = context.Process(target=_rank, args=(verb, given, own, theirs))
                process.start()
                theirs.close()
                ranks.append((process, ours))
            _supervise(verb, ranks)
            for process, _ in ranks:
                process.join(GRACE_SECONDS)
        finally:
            for process, _ in ranks:
                process.kill()
                process.join()


def _supervise(verb: str, ranks: Sequence[tuple[SpawnProcess, Connection]]) -> None:
    """Pass signals on to the leader; raise the error that counts when there is one."""
    errors: list[BaseException] = []
    stopping: Stopped | None = None
    open_pipes = {pipe: number for number, (_, pipe) in enumerate(ranks)}
    deadline: float | None = None
    while open_pipes and (deadline is None or time.monotonic() < deadline):
        try:
            for pipe in wait(list(open_pipes), timeout=0.5 if deadline else None):
                assert isinstance(pipe, Connection)
                error = _told(pipe)
                number = open_pipes.pop(pipe)
                if error is _DIED:
                    process = ranks[number][0]
                    process.join()
                    error = stopping or FuseGPTError(
                        f"{verb}: process {number + 1} of {len(ranks)} ended with exit code"
                        f" {process.exitcode}; if it was killed (-9), memory ran out"
                    )
                if error is not None:
                    errors.append(error)
                    deadline = deadline or time.monotonic() + GRACE_SECONDS
        except Stopped as stopped:
            stopping = stopped
            leader = ranks[0][0]
            if leader.is_alive() and leader.pid is not None:
                os.kill(leader.pid, RELAYED[signal.Signals(stopped.number)])
    ours = (FuseGPTError, Stopped, click.ClickException)
    for error in sorted(errors, key=lambda error: not isinstance(error, ours)):
        raise error


class _Died(Exception):
    """Nothing was told."""


_DIED = _Died()


def _told(pipe: Connection) -> BaseException | None:
    """What a process ended with; None: all is well."""
    try:
        error: BaseException | None = pickle.loads(pipe.recv_bytes())
        return error
    except EOFError:
        return _DIED


def _rank(verb: str, given: Mapping[str, Any], own: _Place, pipe: Connection) -> None:
    """Be one of the processes, from its beginning to its end."""
    relayed()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if own.rank:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
    if own.sees is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = own.sees
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal():
        os.environ["OMP_NUM_THREADS"] = str(max(1, int(threads) // own.count))
    set_up_logging()
    logging.getLogger("fusegpt").setLevel(own.level)
    allow_remote_code(own.remote)
    try:
        _work(verb, given, own)
    except BaseException as error:
        pipe.send_bytes(_pickled(error))
        sys.stdout.flush()
        os._exit(1)  # a normal end would wait for the others
    sys.stdout.flush()
    pipe.send_bytes(pickle.dumps(None))


def _work(verb: str, given: Mapping[str, Any], own: _Place) -> None:
    from fusegpt.parallel import joined

    verbs = importlib.import_module("fusegpt.cli").VERBS
    command: Any = (own.work or lookup(verbs, verb, "verb")).load()
    with joined(own.rank, own.count, own.meeting, given["device"]), heartbeat(verb):
        command.callback(**given)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _pickled(error: BaseException) -> bytes:
    """An error with the lines that lead to it, for a report."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        whole = pickle.dumps(error)
        pickle.loads(whole)
        return whole
    except Exception:
        plain = RuntimeError(f"{type(error).__name__}: {error}")
        plain.add_note(error.__notes__[-1])
        return pickle.dumps(plain)
