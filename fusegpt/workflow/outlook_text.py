"""``fusegpt plan`` for people: the outlook in words, one line for each count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fusegpt.results.point import Place
from fusegpt.work import Work, total

__all__ = ["as_text"]

NOT_COUNTED = "not counted"
"""The words for what a method does not count, or what is not here to be counted."""

STAGES = (
    ("scoring", "calibration", ("score",)),
    ("recovery", "recovery", ("fuse", "merge", "finish")),
    ("slicing", "calibration", ("slice",)),
)
"""What people call the work, and the tokens that it reads; and the rules that do it."""

COUNTS = {
    "passes": "block forward passes",
    "tokens": "{data} tokens",
    "trainable": "trainable parameters",
    "flops": "{stage} FLOPs",
}
"""The counts of a stage that are said, and what they are called."""


def as_text(notes: Mapping[str, Any]) -> str:
    """Return the outlook in words."""
    lines = [f"{'jobs':<16}{'to run':>8}{'there':>8}"]
    lines += [
        f"{rule:<16}{count['to_run']:>8}{count['there']:>8}"
        for rule, count in notes["jobs"].items()
    ]
    sums = [sum(count[key] for count in notes["jobs"].values()) for key in ("to_run", "there")]
    lines += [f"{'total':<16}{sums[0]:>8}{sums[1]:>8}", ""]
    if notes["targets"]:
        lines += ["targets:", *map(_target_line, notes["targets"]), ""]
    lines.append("work of each recipe, all of it / still to run:")
    for row in notes["runs"]:
        lines += [f"{row['model']}  {row['recipe']}  {_extent(row)}", *_row_lines(row)]
    if "hours" in notes:
        lines += ["", *_hour_lines(notes["hours"])]
    if any(row["at_most"] for row in notes["runs"]):
        lines += [
            "",
            "jobs and time are those known by now; a step more is known when one is measured",
        ]
    if not sums[0]:
        return "\n".join([*lines, "", "time: nothing to do"])
    time = f"time, one job after another on {notes['device']}, from earlier runs here: "
    return "\n".join([*lines, "", time + _time_words(notes)])


def _target_line(row: Mapping[str, Any]) -> str:
    bound = "at most " if row.get("at_most") else ""
    return (
        f"{row['model']}  {row['recipe']}  {row['target']}: {bound}{row['count']} of"
        f" {row['units']} units go, {row['left']}"
    )


def _extent(row: Mapping[str, Any]) -> str:
    """How far a recipe goes."""
    places = [Place.parse(name) for name in row["places"]]
    if places[-1].slices:
        return f"sparsities {', '.join(place.text for place in places)}"
    return f"{'at most ' * row['at_most']}{places[-1].number} steps"


def _row_lines(row: Mapping[str, Any]) -> Iterator[str]:
    for stage, data, rules in STAGES:
        whole, rest = (
            total(Work(**row[f"{which}_{rule}"]) for rule in rules) for which in ("all", "to_run")
        )
        for name, label in COUNTS.items():
            if (value := getattr(whole, name)) != 0:
                said = f"{_number(name, value):>16} / {_number(name, getattr(rest, name))}"
                yield f"  {label.format(stage=stage, data=data):<20}{said}"
    if (memory := row["least_memory_gib"]) is not None:
        said = f"{memory['weights']:.2g} GiB of weights"
        if memory["tuning"]:
            said += f", {memory['tuning']:.2g} to tune"
        if memory["states"]:
            said += f", {memory['states']:.2g} of states in main memory"
        if memory["streamed"] is not None:
            said += f" (weights read block by block: {memory['streamed']:.2g})"
        if row["peak_memory_gib"]:
            said += f"; its steps here took {row['peak_memory_gib']:.2g} at most"
        yield f"  memory, at least     {said}"
    else:
        yield f"  memory, at least     {NOT_COUNTED}"
    if row["seconds"] or row["not_measured"]:
        yield f"  time                 {_time_words(row)}"


def _number(name: str, value: float | None) -> str:
    if value is None:
        return NOT_COUNTED
    return f"{value:.3g}" if name == "flops" else f"{round(value):,}"


def _hour_lines(hours: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"hours at {hours['tflops']:g} TFLOP/s: {hours['all']:.2g} / {hours['to_run']:.2g}"
        " (scoring, recovery and slicing; not loading, evaluation or waiting)"
    )
    if hours["not_counted"]:
        yield f"  {NOT_COUNTED}, or not in full: {', '.join(hours['not_counted'])}"


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
