"""``fusegpt plan`` in words: what will run, what is there, what it costs."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fusegpt.data.windows import read_meta
from fusegpt.errors import ArtifactError
from fusegpt.work import Shape, Work, total
from fusegpt.workflow import paths
from fusegpt.workflow.cost import score_work
from fusegpt.workflow.cost_recovery import fuse_work, least_memory, merge_work
from fusegpt.workflow.dryrun import Job, jobs
from fusegpt.workflow.experiment import Plan
from fusegpt.workflow.measured import Measured
from fusegpt.workflow.members import DENSE
from fusegpt.workflow.shape import block_shape
from fusegpt.workflow.slice_outlook import slice_lines, slice_rows

__all__ = ["as_text", "outlook"]


def outlook(
    plan: Plan,
    config: Mapping[str, Any],
    directory: Path,
    device: str,
    tflops: float | None = None,
    workflow: Path | None = None,
) -> dict[str, Any]:
    """What an experiment needs, as a table of plain values.

    Args:
        plan: Of the merged configuration.
        config: The merged configuration.
        directory: Where results lie, or will.
        device: Whose past seconds count: ``cpu`` or ``cuda``.
        tflops: A rate to turn counted FLOPs into hours by, in 10^12 per second.
        workflow: A Snakefile that imports this project's rules under their names; None: ours.
    """
    to_run, all_jobs = (
        jobs(config, directory, everything=each, workflow=workflow) for each in (False, True)
    )
    waiting, known = Counter(job.rule for job in to_run), Counter(job.rule for job in all_jobs)
    measured = Measured(directory, plan, device)
    seconds = [(job, measured.seconds(job)) for job in to_run]
    shape_of = functools.cache(functools.partial(_shape, plan, directory=directory))
    notes = {
        "experiments": list(plan.experiments),
        "jobs": {
            rule: {"to_run": waiting[rule], "there": max(0, count - waiting[rule])}
            for rule, count in known.items()
        },
        "runs": [
            {**row, "peak_memory_gib": measured.peaks.get((row["model"], row["recipe"]))}
            for row in _runs(plan, directory, seconds, shape_of)
        ],
        "slices": list(slice_rows(plan, to_run, shape_of)),
        "device": device,
        **_time(seconds),
    }
    return notes if tflops is None else notes | {"hours": _hours(notes, tflops)}


def _hours(notes: Mapping[str, Any], tflops: float) -> dict[str, Any]:
    """Counted FLOPs at a rate, and the recipes that are not counted, or not in full."""
    sums, missing = {"all": 0.0, "to_run": 0.0}, set()
    for row in [*notes["runs"], *notes["slices"]]:
        for which in sums:
            for name in (*WORK, "slice"):
                flops = row.get(f"{which}_{name}", {"flops": 0.0})["flops"]
                sums[which] += flops or 0.0
                if flops is None:
                    missing.add(f"{row['recipe']} of {row['model']}")
    hours = {which: value / (tflops * 1e12) / 3600 for which, value in sums.items()}
    return {"tflops": tflops, **hours, "not_counted": sorted(missing)}


def _runs(
    plan: Plan,
    directory: Path,
    waiting: Sequence[tuple[Job, float | None]],
    shape_of: Callable[[str], Shape | None],
) -> Iterator[dict[str, Any]]:
    """One row per model and recipe: the work of all its steps, and of those still to run."""
    asked: dict[tuple[str, str], list[int]] = {}
    for model, recipe, step in plan.evaluated:
        if recipe != DENSE:
            asked.setdefault((model, recipe), []).append(step)
    for (model, recipe), steps in asked.items():
        chosen, num_blocks = plan.recipes[recipe], plan.models[model].num_blocks
        mine = [
            (job, seconds)
            for job, seconds in waiting
            if (job.wildcards.get("model"), job.wildcards.get("recipe")) == (model, recipe)
        ]
        row: dict[str, Any] = {"model": model, "recipe": recipe, "steps": max(steps)}
        chain = steps if chosen.selection == "contiguous" else range(1, max(steps) + 1)
        for rule, (work_of, role) in WORK.items():
            left = {int(job.wildcards["k"]) for job, _ in mine if job.rule == rule}
            windows = _sequences(plan, model, recipe, role, directory)
            works = {
                k: work_of(chosen, num_blocks, k, shape_of(model), windows)
                for k in (steps if rule == "merge" else chain)
            }
            row[f"all_{rule}"] = vars(total(works.values()))
            row[f"to_run_{rule}"] = vars(total(works[k] for k in works if k in left))
        windows = _sequences(plan, model, recipe, "finetune", directory)
        memory = least_memory(chosen, num_blocks, shape_of(model), windows)
        row["least_memory_gib"] = None if memory is None else vars(memory)
        yield row | _time(mine)


WORK: dict[str, tuple[Callable[..., Work], Literal["calibration", "finetune"]]] = {
    "score": (score_work, "calibration"),
    "fuse": (fuse_work, "finetune"),
    "merge": (merge_work, "finetune"),
}
"""Rules whose work is counted, and which windows they read."""


def _time(jobs: Sequence[tuple[Job, float | None]]) -> dict[str, Any]:
    return {
        "seconds": sum(value for _, value in jobs if value is not None),
        "not_measured": dict(Counter(job.rule for job, value in jobs if value is None)),
    }


def _sequences(
    plan: Plan,
    model: str,
    recipe: str,
    role: Literal["calibration", "finetune"],
    directory: Path,
) -> int | None:
    """Windows in the file that a recipe sampled by rows, when it is there."""
    if plan.recipes[recipe].windows(role).rows is None:
        return None
    try:
        meta = read_meta(directory / paths.windows(model, plan.windows_of(recipe, role).id))
    except ArtifactError:
        return None
    return meta.sequences


def _shape(plan: Plan, model: str, directory: Path) -> Shape | None:
    """From the model's files, else from its entry."""
    entry = plan.models[model]
    places = [(directory / paths.model(model)).parent]
    if entry.source.startswith("dir:"):
        places.append(directory / entry.source.removeprefix("dir:"))
    found = (block_shape(place, entry.num_blocks) for place in places)
    return next((shape for shape in found if shape is not None), entry.shape)


def as_text(notes: Mapping[str, Any]) -> str:
    """The outlook for people."""
    lines = [f"{'jobs':<16}{'to run':>8}{'there':>8}"]
    lines += [
        f"{rule:<16}{count['to_run']:>8}{count['there']:>8}"
        for rule, count in notes["jobs"].items()
    ]
    sums = [sum(count[key] for count in notes["jobs"].values()) for key in ("to_run", "there")]
    lines += [f"{'total':<16}{sums[0]:>8}{sums[1]:>8}", ""]
    lines.append("work of the steps, all of them / still to run:")
    for row in notes["runs"]:
        lines += [f"{row['model']}  {row['recipe']}  {row['steps']} steps", *_row_lines(row)]
    lines += slice_lines(notes["slices"])
    if "hours" in notes:
        lines += ["", *_hour_lines(notes["hours"])]
    if not any(count["to_run"] for count in notes["jobs"].values()):
        return "\n".join([*lines, "", "time: nothing to do"])
    time = f"time, one job after another on {notes['device']}, from earlier runs here: "
    return "\n".join([*lines, "", time + _time_words(notes)])


def _hour_lines(hours: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"hours at {hours['tflops']:g} TFLOP/s: {hours['all']:.2g} / {hours['to_run']:.2g}"
        " (scoring and recovery; not loading, evaluation or waiting)"
    )
    if hours["not_counted"]:
        yield f"  not in them, or not in full: {', '.join(hours['not_counted'])}"


def _row_lines(row: Mapping[str, Any]) -> Iterator[str]:
    for rule, label, name, words in WANTED:
        whole, rest = row[f"all_{rule}"][name], row[f"to_run_{rule}"][name]
        if whole != 0:
            yield f"  {label:<20}{words(whole):>16} / {words(rest)}"
    if (memory := row["least_memory_gib"]) is not None:
        said = f"{memory['weights']:.2g} GiB of weights"
        if memory["tuning"]:
            said += f", {memory['tuning']:.2g} to tune"
        if memory["states"]:
            said += f", {memory['states']:.2g} of states in main memory"
        if row["peak_memory_gib"]:
            said += f"; its steps here took {row['peak_memory_gib']:.2g} at most"
        yield f"  memory, at least     {said}"
    if row["seconds"] or row["not_measured"]:
        yield f"  time                 {_time_words(row)}"


def _passes(value: float | None) -> str:
    return "not counted" if value is None else f"{round(value):,}"


def _count(value: float | None) -> str:
    return "not known yet" if value is None else f"{round(value):,}"


def _flops(value: float | None) -> str:
    return "not known yet" if value is None else f"{value:.3g}"


WANTED = (
    ("score", "block forward passes", "passes", _passes),
    ("score", "calibration tokens", "tokens", _count),
    ("score", "scoring FLOPs", "flops", _flops),
    ("fuse", "tuned tokens", "tokens", _count),
    ("fuse", "optimiser steps", "optimizer_steps", _count),
    ("fuse", "trainable, at most", "trainable", _count),
    ("fuse", "tuning FLOPs", "flops", _flops),
    ("merge", "tuned at the end", "tokens", _count),
    ("merge", "its optimiser steps", "optimizer_steps", _count),
    ("merge", "its trainable", "trainable", _count),
    ("merge", "its FLOPs", "flops", _flops),
)


def _time_words(notes: Mapping[str, Any]) -> str:
    missing = ", ".join(f"{count} {rule}" for rule, count in notes["not_measured"].items())
    if not notes["seconds"]:
        return "not measured"
    text = f"about {_duration(notes['seconds'])}"
    return text + (f"; not measured: {missing}" if missing else "")


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
