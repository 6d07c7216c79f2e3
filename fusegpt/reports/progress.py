"""How far runs are, read from the files they leave and the locks they hold; nothing is loaded."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fusegpt.locks import holder
from fusegpt.pace import SAYS, in_words
from fusegpt.results import layout as at
from fusegpt.results.base import read
from fusegpt.results.records import Scores, Step, read_manifest
from fusegpt.results.recovered import Training, TrainingRow
from fusegpt.results.unfinished import read_unfinished

__all__ = ["Now", "RunProgress", "as_line", "read_progress", "training_so_far"]

Steps = Mapping[tuple[str, str], Sequence[int]]


@dataclass(frozen=True)
class Now:
    """The step that a run is at.

    Attributes:
        step: Number of the step.
        stage: ``score`` or ``recover``.
        rows: Optimiser steps that are on record, each with its loss; the record is written once
            in a while, so a job may be ahead of it.
        of: Optimiser steps in all; None: not known.
        seconds: What the whole step will take, going by its rows so far; None: not known.
        holder: Who works on it, in words; None: nobody on this machine.
        said: What the job's log said last of how far it is; None: nothing, or there is no log.
    """

    step: int
    stage: str
    rows: Sequence[TrainingRow]
    of: int | None
    seconds: float | None
    holder: str | None
    said: str | None = None


@dataclass(frozen=True)
class RunProgress:
    """One run.

    Attributes:
        model: Name of the dense model.
        recipe_id: Id of the recipe.
        done: Steps that are whole, of those planned if a plan is known.
        planned: How many there will be; None: not known.
        seconds_per_step: Median of the steps that are done, or an estimate from the first one's
            rows; None: not known.
        now: The next step, if anything of it is there or anybody works on it.
    """

    model: str
    recipe_id: str
    done: int
    planned: int | None
    seconds_per_step: float | None
    now: Now | None

    @property
    def is_running(self) -> bool:
        """Whether a process of this machine works on it."""
        return self.now is not None and self.now.holder is not None

    @property
    def is_done(self) -> bool:
        """Whether all that is known to be planned is done."""
        return not self.is_running and (self.planned is None or self.done >= self.planned)

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the rest will take, going by past steps; None: not known."""
        if self.planned is None or self.seconds_per_step is None:
            return 0.0 if self.planned == self.done else None
        left = float(self.planned - self.done)
        if self.now is not None and self.now.of and left:
            left -= min(1.0, len(self.now.rows) / self.now.of)
        return left * self.seconds_per_step


def read_progress(results: str | Path, planned: Steps | None = None) -> list[RunProgress]:
    """Look at every run below ``results``, and at every planned one that has not begun.

    Args:
        results: The results folder.
        planned: (model, recipe id) to the numbers of the steps asked for; None: no plan is known.

    Raises:
        ArtifactError: A record is damaged.
    """
    if planned is not None:
        return [_run(Path(results), *key, steps) for key, steps in planned.items()]
    found = at.run_directory.found_in(results)
    runs = [run for run in found if run.path.is_dir()]
    return [_run(Path(results), run.names["model"], run.names["recipe"], None) for run in runs]


def _run(results: Path, model: str, recipe: str, planned: Sequence[int] | None) -> RunProgress:
    steps = at.step_directory.found_in(results, model=model, recipe=recipe)
    begun = {step.place.number: step.path for step in steps if step.place.number > 0}
    whole = {number: path for number, path in begun.items() if (path / at.MANIFEST).is_file()}
    counted = {k: path for k, path in whole.items() if planned is None or k in planned}
    seconds = [_seconds(path) for path in counted.values()]
    now = _now(begun, whole)
    if now is not None and now.holder is not None:
        rule = "fuse" if now.stage == "recover" else now.stage
        log = results.parent / "logs" / rule / model / recipe / f"{begun[now.step].name}.log"
        now = replace(now, said=_last_said(log))
    if not seconds and now is not None and now.seconds is not None:
        seconds = [now.seconds]
    return RunProgress(
        model=model,
        recipe_id=recipe,
        done=len(counted),
        planned=None if planned is None else len(planned),
        seconds_per_step=statistics.median(seconds) if seconds else None,
        now=now,
    )


def _now(begun: Mapping[int, Path], whole: Mapping[int, Path]) -> Now | None:
    """The first step that is begun and not whole."""
    step = next((step for step in sorted(begun) if step not in whole), None)
    if step is None:
        return None
    directory = begun[step]
    scored = (directory / at.SCORES).is_file()
    worker = holder(directory) if scored else holder(directory / at.SCORES)
    rows, total = training_so_far(directory)
    if scored and total is None:
        total = next((len(found) for path in whole.values() if (found := _rows(path))), None)
    seconds = _estimate(directory, len(rows), total)
    return Now(step, "recover" if scored else "score", rows, total, seconds, worker)


def _last_said(log: Path) -> str | None:
    """What the log of the workflow's job last said of how far it is."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    said = (line.partition(SAYS)[2] for line in reversed(lines) if SAYS in line)
    return next(said, None)


def _estimate(step: Path, rows: int, total: int | None) -> float | None:
    """Seconds of a step in progress: scoring, and its rows' own pace since then."""
    try:
        scored, saved = ((step / name).stat().st_mtime for name in (at.SCORES, at.RESUME))
    except OSError:
        return None
    scoring = read(step / at.SCORES, Scores).seconds
    return scoring + (saved - scored) / rows * total if rows and total else None


def training_so_far(step: Path) -> tuple[Sequence[TrainingRow], int | None]:
    """Return the rows of a step's recovery, finished or not, and how many there will be.

    Args:
        step: Directory of the step.
    """
    if (step / at.TRAINING).is_file():
        rows = _rows(step)
        return rows, len(rows)
    found = read_unfinished(step / at.RESUME)
    return found.rows, found.steps


def _rows(step: Path) -> Sequence[TrainingRow]:
    file = step / at.TRAINING
    return read(file, Training).rows if file.is_file() else []


def _seconds(step: Path) -> float:
    """How long a whole step took: scoring and recovery."""
    manifest, scores = read_manifest(step / at.MANIFEST), step / at.SCORES
    scoring = read(scores, Scores).seconds if scores.is_file() else 0.0
    return scoring + (manifest.seconds if isinstance(manifest, Step) else 0.0)


def as_line(run: RunProgress) -> str:
    """Say in words how far a run is."""
    of = "" if run.planned is None else f"/{run.planned}"
    parts = [f"{run.model}  {run.recipe_id}  steps done {run.done}{of}"]
    if run.now is not None and run.planned != run.done:
        parts.append(_now_in_words(run.now))
    left = run.seconds_left
    if left:
        parts.append(f"about {in_words(left)} left")
    elif run.planned is not None and run.done < run.planned:
        parts.append("time left not known" if run.now else "not begun")
    return ", ".join(parts)


def _now_in_words(now: Now) -> str:
    text = f"step {now.step}: " + ("scoring" if now.stage == "score" else "recovering")
    if now.said:
        return f"{text}: {now.said}"
    if now.rows:
        of = f"/{now.of}" if now.of else ""
        first, last = now.rows[0].loss, now.rows[-1].loss
        text += f", optimiser step {len(now.rows)}{of}, loss {first:.4g} -> {last:.4g}"
    return text if now.holder else f"{text} (nobody works on it)"
