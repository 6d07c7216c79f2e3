"""``fusegpt plan`` in words: what will run, what is there, what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusegpt.workflow import paths
from fusegpt.workflow.cost import Shape, Work, block_shape, fuse_work, score_work, total
from fusegpt.workflow.dryrun import Job, jobs
from fusegpt.workflow.experiment import DENSE, Plan
from fusegpt.workflow.measured import Measured

__all__ = ["as_text", "outlook"]


def outlook(plan: Plan, config: Mapping[str, Any], directory: Path, device: str) -> dict[str, Any]:
    """What an experiment needs, as a table of plain values.

    Args:
        plan: Of the merged configuration.
        config: The merged configuration.
        directory: Where results lie, or will.
        device: Whose past seconds count: ``cpu`` or ``cuda``.
    """
    to_run, all_jobs = jobs(config, directory), jobs(config, directory, everything=True)
    waiting, known = Counter(job.rule for job in to_run), Counter(job.rule for job in all_jobs)
    measured = Measured(directory, plan, device)
    seconds = [(job, measured.seconds(job)) for job in to_run]
    return {
        "experiments": list(plan.experiments),
        "jobs": {
            rule: {"to_run": waiting[rule], "there": max(0, count - waiting[rule])}
            for rule, count in known.items()
        },
        "runs": list(_runs(plan, to_run, directory)),
        "device": device,
        "seconds": sum(value for _, value in seconds if value is not None),
        "not_measured": dict(Counter(job.rule for job, value in seconds if value is None)),
    }


def _runs(plan: Plan, to_run: Sequence[Job], directory: Path) -> Iterator[dict[str, Any]]:
    """One row per model and recipe: the work of all its steps, and of those still to run."""
    last: dict[tuple[str, str], int] = {}
    for model, recipe, step in plan.evaluated:
        if recipe != DENSE:
            last[model, recipe] = max(step, last.get((model, recipe), 0))
    waiting = {
        (job.rule, job.wildcards["model"], job.wildcards["recipe"], int(job.wildcards["k"]))
        for job in to_run
        if job.rule in ("score", "fuse")
    }
    shapes = {model: _shape(plan, model, directory) for model, _ in last}
    for (model, recipe), steps in last.items():
        arguments = (plan.recipes[recipe], plan.models[model].num_blocks)
        row: dict[str, Any] = {"model": model, "recipe": recipe, "steps": steps}
        for key, wanted in (("all", None), ("to_run", waiting)):
            for rule, work_of in (("score", score_work), ("fuse", fuse_work)):
                works = [
                    work_of(*arguments, k, shapes[model])
                    for k in range(1, steps + 1)
                    if wanted is None or (rule, model, recipe, k) in wanted
                ]
                row[f"{key}_{rule}"] = vars(total(works))
        yield row


def _shape(plan: Plan, model: str, directory: Path) -> Shape | None:
    entry = plan.models[model]
    places = [(directory / paths.model(model)).parent]
    if entry.source.startswith("dir:"):
        places.append(directory / entry.source.removeprefix("dir:"))
    found = (block_shape(place, entry.num_blocks) for place in places)
    return next((shape for shape in found if shape is not None), None)


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
        lines += [f"{row['model']}  {row['recipe']}  {row['steps']} steps", *_work_lines(row)]
    return "\n".join([*lines, "", _time_line(notes)])


def _work_lines(row: Mapping[str, Any]) -> Iterator[str]:
    both = {
        rule: (Work(**row[f"all_{rule}"]), Work(**row[f"to_run_{rule}"]))
        for rule in ("score", "fuse")
    }
    wanted = (
        ("score", "block passes", "passes", _count),
        ("score", "calibration tokens", "tokens", _count),
        ("score", "scoring FLOPs", "flops", _flops),
        ("fuse", "tuned tokens", "tokens", _count),
        ("fuse", "optimiser steps", "optimizer_steps", _count),
        ("fuse", "trainable, at most", "trainable", _count),
        ("fuse", "tuning FLOPs", "flops", _flops),
    )
    for rule, label, name, words in wanted:
        whole, rest = (getattr(work, name) for work in both[rule])
        if whole == 0:
            continue
        yield f"  {label:<20}{words(whole):>16} / {words(rest)}"


def _count(value: float | None) -> str:
    return "not counted" if value is None else f"{int(value):,}"


def _flops(value: float | None) -> str:
    return "not known yet" if value is None else f"{value:.3g}"


def _time_line(notes: Mapping[str, Any]) -> str:
    missing = ", ".join(f"{count} {rule}" for rule, count in notes["not_measured"].items())
    if not any(count["to_run"] for count in notes["jobs"].values()):
        return "time: nothing to do"
    text = f"time, one job after another on {notes['device']}, from earlier runs here: "
    if notes["seconds"]:
        text += f"about {_duration(notes['seconds'])}"
        return text + (f"; not measured: {missing}" if missing else "")
    return text + "not measured"


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
