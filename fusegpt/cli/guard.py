"""What surrounds a verb that writes: the lock of its output, a GPU of its own, memory in words."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

import fusegpt
from fusegpt.artifacts import STAGE_VERSION, sha256
from fusegpt.cli.places import FILES, FOLDERS, tried
from fusegpt.cli.ranks import run_ranks, splits
from fusegpt.devices import device_lock, kind_and_count
from fusegpt.errors import ArtifactError, ConfigError, FuseGPTError, OutOfMemory, one_line
from fusegpt.locks import sole_writer
from fusegpt.pace import heartbeat
from fusegpt.results import layout as at
from fusegpt.signals import stoppable

__all__ = ["WRITERS", "guarded", "in_words"]

logger = logging.getLogger(__name__)

WRITERS: dict[str, tuple[str, ...]] = {
    **FOLDERS,
    **dict.fromkeys(("sample", "generate", "score", "evaluate"), ()),
}
"""Verbs that hold their output's lock; the files of those that write a directory, last one last."""

LOWER = {
    "generate": "lower batch_size (changes texts by rounding only), or choose another device",
    "score": "lower calibration.batch_size (changes scores by rounding only) or calibration.length",
    "fuse": "lower {recovery}, or choose another device; nothing is lowered by itself, since each"
    " of these changes the result",
    "merge": "lower {recovery}, or choose another device",
    "answers": "choose another device",
    "finish": "lower finish.micro_batch_size or finish.chunk, or set finish.checkpointing (these"
    " change results by rounding only, or not at all), or choose another device",
    "prune": "lower {recovery}, or calibration.batch_size, or choose another device",
    "slice": "lower calibration.batch_size (changes results by rounding only) or"
    " calibration.sequences, or choose another device",
    "evaluate": "lower the length, or choose another device",
    "export": "use a machine with more memory",
}
"""What a user can turn down when a verb runs out of memory; the recipe's recovery adds its own."""


def guarded(verb: str, command: click.Command) -> click.Command:
    """Let a verb try its places first; let one that computes be the only writer of its output.

    It gets a GPU of its own if it wants one.
    """
    if verb not in WRITERS and verb not in FILES:
        return command
    inner = command.callback
    assert inner is not None

    @functools.wraps(inner)
    def callback(**asked: Any) -> Any:
        given = tried(verb, asked)
        if verb not in WRITERS:
            return inner(**given)
        job, outputs = _job(verb, given), _outputs(given)
        before = [_state(verb, output) for output in outputs]
        with sole_writer(outputs[0], job=job, wait_seconds=_lock_timeout()) as waited_for:
            changed = all(_state(verb, x) != old for x, old in zip(outputs, before, strict=True))
            if waited_for == job and changed and all(_is_whole(verb, x) for x in outputs):
                logger.info("%s: finished by the process waited for; nothing is left", outputs[0])
                return None
            for output in outputs:
                _remove_leftovers(verb, output)
            try:
                if given.get("parts"):  # adding them up computes nothing on a device
                    given |= {"device": "cpu"}
                kind, count = kind_and_count(str(given.get("device", "cpu")))
                _check_device(kind)
                count = count if count > 1 and splits(verb, given) else 1
                given |= {"device": kind} if "device" in given else {}
                with stoppable(), device_lock(kind, count) as devices:
                    if count > 1:
                        return run_ranks(verb, given, count, devices)
                    with heartbeat(verb):
                        return inner(**given)
            except (RuntimeError, MemoryError) as error:
                known = in_words(verb, error, given.get("recipe"))
                if known is None:
                    raise
                raise known from error

    result = copy.copy(command)
    result.callback = callback
    return result


def in_words(verb: str | None, error: BaseException, recipe: Any = None) -> FuseGPTError | None:
    """Return an out-of-memory error of a library as one of ours; None: it is something else.

    Args:
        verb: What was running.
        error: As it was raised.
        recipe: Name or file of the recipe that it ran with, if it had one.
    """
    text = one_line(error)
    torch_class = type(error).__name__ == "OutOfMemoryError" and "torch" in sys.modules
    if not (torch_class or isinstance(error, MemoryError) or "can't allocate memory" in text):
        return None
    asked = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", text)
    free = re.search(r"of which ([\d.]+ \w+) is free", text)
    place = re.search(r"GPU (\d+) has a total capacity of ([\d.]+ \w+)", text)
    parts = ["out of memory" if torch_class else "out of memory on this machine"]
    if place:
        parts[0] += f" on GPU {place[1]} ({place[2]})"
    if asked:
        parts.append(f"{asked[1]} more were needed")
    if free:
        parts.append(f"{free[1]} are free")
    advice = LOWER.get(verb or "", "use a machine with more memory")
    *names, last = _lowered_by(recipe)
    advice = advice.format(recovery=f"{', '.join(names)} or {last}" if names else last)
    return OutOfMemory(f"{verb or 'fusegpt'}: {', '.join(parts)}; {advice}")


def _lowered_by(recipe: Any) -> list[str]:
    """What of a recipe's recovery takes memory; nothing of it where the recipe cannot be read."""
    from fusegpt.pruning.recipe import read_recipe

    try:
        own = () if recipe is None else read_recipe(recipe).recovery.lowers_memory
    except FuseGPTError:
        own = ()
    return ["finetune.length", *(f"recovery.{name}" for name in own)]


def _check_device(name: str) -> None:
    """Ask for a device that was named before anything is read; ``cuda`` is any, and locked."""
    if name not in ("cpu", "cuda"):
        from fusegpt.runtime import device

        device(name)


def _lock_timeout() -> float | None:
    """Seconds to wait for another writer: FUSEGPT_LOCK_WAIT; None: as long as it lives."""
    text = os.environ.get("FUSEGPT_LOCK_WAIT", "")
    try:
        return float(text) if text else None
    except ValueError:
        raise ConfigError(f"FUSEGPT_LOCK_WAIT: must be seconds, got {text!r}") from None


def _job(verb: str, given: Mapping[str, Any]) -> str:
    """One string for what a verb was asked: code, options, contents of the files they name."""
    matter = given.keys() - {"checkpoint_seconds", "memory", "weights"}
    options = {name: _named(given[name]) for name in sorted(matter)}
    parts = [verb, fusegpt.__version__, STAGE_VERSION.get(verb), options]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


def _named(value: Any) -> Any:
    """A path with the checksum of the file, or of the notes in the directory."""
    if not isinstance(value, Path):
        return value
    files = [value] if value.is_file() else [value / name for name in at.RECORDS]
    return [os.path.abspath(value), *(sha256(file) for file in files if file.is_file())]


def _outputs(given: Mapping[str, Any]) -> list[Path]:
    """Where a verb writes; the first output's lock stands for all of them."""
    output = given["output"]
    return [Path(each) for each in (output if isinstance(output, tuple) else [output])]


def _last(verb: str, output: Path) -> Path:
    return output / WRITERS[verb][-1] if WRITERS[verb] else output


def _state(verb: str, output: Path) -> tuple[int, int] | None:
    """What changes when an output is written."""
    try:
        status = os.stat(_last(verb, output))
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _is_whole(verb: str, output: Path) -> bool:
    """Whether the last file is there, and every file that it lists."""
    last = _last(verb, output)
    if last.suffix != ".json":
        return last.is_file()
    from fusegpt.results.base import read
    from fusegpt.results.files import Listing

    try:
        for name, about in read(last, Listing).files.items():
            about.check(last.parent / name)
    except ArtifactError:
        return False
    return True


def _remove_leftovers(verb: str, output: Path) -> None:
    """Delete what a killed process left half-written; nobody else can be writing it now."""
    inside = [(output, name) for name in WRITERS[verb]]
    for folder, name in [(output.parent, output.name), *inside]:
        for path in folder.iterdir() if folder.is_dir() else ():
            if not at.is_leftover(path) or path.name.rpartition(".tmp-")[0] != name:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
