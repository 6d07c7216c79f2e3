"""Runs as TensorBoard event files: losses, importances, times, memory and evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fusegpt.artifacts import read_json
from fusegpt.errors import ArtifactError, ConfigError
from fusegpt.reports.progress import training_rows

__all__ = ["EventLog"]

SUFFIX = ".fusegpt"

Point = tuple[str, int, float, float]
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
        for run in sorted((Path(results) / "runs").glob("*/*")):
            measured = Path(results) / "evaluations" / run.parent.name / run.name
            for point in (*_steps(run), *_evaluations(measured)):
                count += self._add(run, point)
        for writer in self._writers.values():
            writer.flush()
        return count

    def close(self) -> None:
        """Close all files."""
        for writer in self._writers.values():
            writer.close()

    def _add(self, run: Path, point: Point) -> bool:
        tag, step, value, seconds = point
        written = self._written.setdefault(run, set())
        if (tag, step) in written:
            return False
        written.add((tag, step))
        self._writer(run).add_scalar(tag, value, step, walltime=seconds)
        return True

    def _writer(self, run: Path) -> Any:
        if run not in self._writers:
            place = self.directory / run.parent.name / run.name
            for old in place.glob(f"events.out.tfevents.*{SUFFIX}"):
                old.unlink()
            self._writers[run] = self._new_writer(str(place), filename_suffix=SUFFIX)
        return self._writers[run]


def _steps(run: Path) -> Iterator[Point]:
    before = 0
    for directory in sorted(run.glob("step-*")):
        step, rows = int(directory.name.removeprefix("step-")), training_rows(directory)
        for row in rows:
            time = _time(directory, "training.json", "resume.safetensors")
            for name in ("loss", "learning_rate"):
                if name in row:
                    yield f"recovery/{name}", before + row["step"], row[name], time
        before += len(rows)
        yield from _of_record(directory, step)


def _of_record(directory: Path, step: int) -> Iterator[Point]:
    names = {"manifest.json": ("score", "seconds", "memory_gib"), "scores.json": ("seconds",)}
    for file, wanted in names.items():
        notes = _notes(directory / file)
        for name in wanted:
            if isinstance(notes.get(name), int | float):
                stage = "scoring" if file == "scores.json" else "step"
                tag = "step/importance_of_removed" if name == "score" else f"{stage}/{name}"
                yield tag, step, float(notes[name]), _time(directory, file)


def _evaluations(directory: Path) -> Iterator[Point]:
    for file in sorted(directory.glob("step-*/*.json")):
        step = int(file.parent.name.removeprefix("step-"))
        for row in _notes(file).get("rows", []):
            tag = f"{file.stem}/{row['task']}/{row['metric']}"
            yield tag, step, float(row["value"]), _time(file.parent, file.name)


def _notes(file: Path) -> dict[str, Any]:
    try:
        notes = read_json(file)
    except ArtifactError:
        return {}
    return notes if isinstance(notes, dict) else {}


def _time(directory: Path, *names: str) -> float:
    """When the first of these files that is there was written."""
    for name in names:
        if (directory / name).is_file():
            return (directory / name).stat().st_mtime
    return 0.0
