"""Runs as TensorBoard event files: losses, importances, times, memory and evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fusegpt.errors import ConfigError
from fusegpt.reports.progress import training_so_far
from fusegpt.results import layout as at
from fusegpt.results.base import read
from fusegpt.results.models import Evaluation
from fusegpt.results.records import Scores, Step, read_manifest

__all__ = ["EventLog"]

SUFFIX = ".fusegpt"

Scalar = tuple[str, int, float, float]
"""Tag, step, value, time of writing in seconds since the epoch."""


class EventLog:
    """A folder ``{model}/{recipe id}`` of event files for every run below a results folder.

    ``recovery/loss`` and ``recovery/learning_rate`` count optimiser steps on through all steps of
    the run; everything else stands at the number of the step. What an earlier log wrote into the
    same place is replaced, other files there are left alone. Tags hold letters, digits and
    ``-/._``; other characters become ``_``.

    Args:
        directory: Where TensorBoard will look.

    Raises:
        ConfigError: The package tensorboardX is not installed.
    """

    def __init__(self, directory: str | Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ConfigError(
                "--tensorboard: needs the package tensorboardX; pip install 'fusegpt[tensorboard]'"
            ) from None
        self.directory = Path(directory)
        self._new_writer = SummaryWriter
        self._writers: dict[Path, Any] = {}
        self._written: dict[Path, set[tuple[str, int]]] = {}

    def update(self, results: str | Path) -> int:
        """Write what is new below ``results``; returns how many values that were."""
        count = 0
        for run in at.run_directory.found_in(results):
            names = (run.names["model"], run.names["recipe"])
            for scalars in (_steps, _evaluations):
                for scalar in scalars(Path(results), *names):
                    count += self._add(Path(*names), scalar)
        for writer in self._writers.values():
            writer.flush()
        return count

    def close(self) -> None:
        """Close all files."""
        for writer in self._writers.values():
            writer.close()

    def _add(self, run: Path, scalar: Scalar) -> bool:
        tag, step, value, seconds = scalar
        written = self._written.setdefault(run, set())
        if (tag, step) in written:
            return False
        written.add((tag, step))
        self._writer(run).add_scalar(tag, value, step, walltime=seconds)
        return True

    def _writer(self, run: Path) -> Any:
        if run not in self._writers:
            place = self.directory / run
            for old in place.glob(f"events.out.tfevents.*{SUFFIX}"):
                old.unlink()
            self._writers[run] = self._new_writer(str(place), filename_suffix=SUFFIX)
        return self._writers[run]


def _steps(results: Path, model: str, recipe: str) -> Iterator[Scalar]:
    before = 0
    for found in at.step_directory.found_in(results, model=model, recipe=recipe):
        rows, _ = training_so_far(found.path)
        written = _time(found.path, at.TRAINING, at.RESUME)
        for row in rows:
            yield "recovery/loss", before + row.step, row.loss, written
            if row.learning_rate is not None:
                yield "recovery/learning_rate", before + row.step, row.learning_rate, written
        before += len(rows)
        yield from _scoring(found)
        yield from _step(found)


def _step(found: at.Found) -> Iterator[Scalar]:
    file = found.path / at.MANIFEST
    record = read_manifest(file) if file.is_file() else None
    if isinstance(record, Step):
        values = {
            "step/importance_of_removed": record.score,
            "step/seconds": record.seconds,
            "step/memory_gib": record.memory_gib,
        }
        for tag, value in values.items():
            if value is not None:
                yield tag, found.place.number, value, _time(found.path, at.MANIFEST)


def _scoring(found: at.Found) -> Iterator[Scalar]:
    file = found.path / at.SCORES
    if file.is_file():
        seconds = read(file, Scores).seconds
        yield "scoring/seconds", found.place.number, seconds, _time(found.path, at.SCORES)


def _evaluations(results: Path, model: str, recipe: str) -> Iterator[Scalar]:
    for found in at.evaluation.found_in(results, model=model, recipe=recipe):
        if found.place.slices:
            continue
        for row in read(found.path, Evaluation).rows:
            tag = f"{found.names['evaluation']}/{row.task}/{row.metric}"
            yield tag, found.place.number, row.value, _time(found.path.parent, found.path.name)


def _time(directory: Path, *names: str) -> float:
    """When the first of these files that is there was written."""
    for name in names:
        if (directory / name).is_file():
            return (directory / name).stat().st_mtime
    return 0.0
