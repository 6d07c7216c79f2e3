"""How far runs are, read from the files they leave and the locks they hold; nothing is loaded."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from fusegpt.artifacts import read_json
from fusegpt.errors import ArtifactError
from fusegpt.locks import holder

__all__ = ["Now", "RunProgress", "as_line", "read_progress", "training_rows"]

Steps = Mapping[tuple[str, str], Sequence[int]]


@dataclass(frozen=True)
class Now:
    """The step that a run is at.

    Attributes:
        step: Its number.
        stage: ``score`` or ``recover``.
        rows: Optimiser steps that are on record, each with its loss; the record is written once
            in a while, so a job may be ahead of it.
        of: Optimiser steps in all; None: not known.
        seconds: What the whole step will take, going by its rows so far; None: not known.
        holder: Who works on it, in words; None: nobody on this machine.
    """

    step: int
    stage: str
    rows: Sequence[Mapping[str, Any]]
    of: int | None
    seconds: float | None
    holder: str | None


@dataclass(frozen=True)
class RunProgress:
    """One run.

    Attributes:
        model, recipe_id: Which.
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
        """Going by its past steps; None: not known."""
        if self.planned is None or self.seconds_per_step is None:
            return 0.0 if self.planned == self.done else None
        left = float(self.planned - self.done)
        if self.now is not None and self.now.of and left:
            left -= min(1.0, len(self.now.rows) / self.now.of)
        return left * self.seconds_per_step


def read_progress(results: str | Path, planned: Steps | None = None) -> list[RunProgress]:
    """Every run below ``results``, and every planned one that has not begun.

    Args:
        results: The folder that holds ``runs``.
        planned: (model, recipe id) to the numbers of the steps asked for; None: no plan is known.
    """
    runs = Path(results) / "runs"
    there = sorted(path for path in runs.glob("*/*") if path.is_dir())
    found = {(path.parent.name, path.name): path for path in there}
    keys = found if planned is None else planned
    return [
        _run(found.get(key, runs / key[0] / key[1]), planned[key] if planned else None)
        for key in keys
    ]


def _run(run: Path, planned: Sequence[int] | None) -> RunProgress:
    whole = {_number(file): file for file in run.glob("step-*/manifest.json")}
    whole = {step: whole[step] for step in sorted(whole) if step > 0}
    if planned is not None:
        whole = {step: file for step, file in whole.items() if step in planned}
    seconds = [_seconds(file.with_name("scores.json")) + _seconds(file) for file in whole.values()]
    now = _now(run, whole)
    if not seconds and now is not None and now.seconds is not None:
        seconds = [now.seconds]
    return RunProgress(
        model=run.parent.name,
        recipe_id=run.name,
        done=len(whole),
        planned=None if planned is None else len(planned),
        seconds_per_step=statistics.median(seconds) if seconds else None,
        now=now,
    )


def _now(run: Path, whole: Mapping[int, Path]) -> Now | None:
    """The first step that is begun and not whole."""
    begun = {_number(path / "x"): path for path in run.glob("step-*") if path.is_dir()}
    for step in sorted(begun):
        directory = begun[step]
        if step == 0 or step in whole or (directory / "manifest.json").is_file():
            continue
        scored = (directory / "scores.json").is_file()
        worker = holder(directory) if scored else holder(directory / "scores.json")
        rows = training_rows(directory)
        total = _optimiser_steps(run, list(whole.values())) if scored else None
        whole_step = _estimate(directory, len(rows), total)
        return Now(step, "recover" if scored else "score", rows, total, whole_step, worker)
    return None


def _estimate(step: Path, rows: int, total: int | None) -> float | None:
    """Seconds of a step in progress: scoring, and its rows' own pace since then."""
    try:
        scores, resume = step / "scores.json", step / "resume.safetensors"
        spent = resume.stat().st_mtime - scores.stat().st_mtime
    except OSError:
        return None
    return _seconds(scores) + spent / rows * total if rows and total else None


def training_rows(step: Path) -> list[dict[str, Any]]:
    """Rows of a step's training: of the whole step, or of the checkpoint inside it; or none."""
    try:
        if (step / "training.json").is_file():
            return list(read_json(step / "training.json")["rows"])
        with safe_open(step / "resume.safetensors", framework="numpy") as file:
            return list(json.loads((file.metadata() or {}).get("rows", "[]")))
    except (ArtifactError, KeyError, OSError, SafetensorError, ValueError):
        return []


def _optimiser_steps(run: Path, whole: Iterable[Path]) -> int | None:
    """As many as the run's other steps had, or as its recipe says."""
    for manifest in whole:
        if rows := training_rows(manifest.parent):
            return len(rows)
    try:
        recipe = read_json(run / "recipe.json")
        settings, windows = recipe["recovery"], recipe["finetune"]
        return int(settings["epochs"]) * (int(windows["sequences"]) // int(settings["batch_size"]))
    except (ArtifactError, KeyError, TypeError, ValueError):
        return None


def _number(file: Path) -> int:
    digits = file.parent.name.removeprefix("step-")
    return int(digits) if digits.isdecimal() else 0


def _seconds(record: Path) -> float:
    try:
        return float(read_json(record).get("seconds", 0.0))
    except (ArtifactError, AttributeError, TypeError):
        return 0.0


def as_line(run: RunProgress) -> str:
    """One run in words."""
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
    if now.rows:
        of = f"/{now.of}" if now.of else ""
        first, last = now.rows[0]["loss"], now.rows[-1]["loss"]
        text += f", optimiser step {len(now.rows)}{of}, loss {first:.4g} -> {last:.4g}"
    return text if now.holder else f"{text} (nobody works on it)"


def in_words(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
