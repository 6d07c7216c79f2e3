"""Which evaluations of one model share a process, and so one loaded model."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from fusegpt.results.point import Point
from fusegpt.workflow.plan import Plan

__all__ = ["Together", "settings_of", "together"]

LONGEST = 48


@dataclass(frozen=True)
class Together:
    """Evaluations that the same models are measured by, in one process each.

    Attributes:
        label: Name of the rule, the log and the benchmark; distinct.
        evaluations: Their names, in the configuration's order. They have one dtype, and the same
            experiments want them; one that compares two models is alone, so that nothing else is
            in memory.
        points: The models that are measured by exactly these.
        decides: Whether the result says what else is to be computed; such an evaluation is alone.
    """

    label: str
    evaluations: tuple[str, ...]
    points: tuple[Point, ...]
    decides: bool = False

    @property
    def models(self) -> str:
        """A regular expression for ``model`` in a path, which looks ahead at the rest of it."""
        runs = []
        whole = sorted(self.points)
        for (model, recipe), points in groupby(whole, lambda point: (point.model, point.recipe)):
            last = "|".join(re.escape(point.place.name) for point in points)
            runs.append(f"{re.escape(model)}/{re.escape(recipe)}/(?:{last})/")
        names = sorted({re.escape(point.model) for point in whole})
        return f"(?={'|'.join(runs)})(?:{'|'.join(names)})"


def together(plan: Plan) -> tuple[Together, ...]:
    """Share out every evaluation of every model; each is in one of the sets.

    A job of the workflow makes all its files, so a set holds only what the same experiments want:
    whoever asks for one experiment gets nothing else.
    """
    wanting: dict[Point, dict[str, list[str]]] = {}
    for experiment, asked in plan.experiments.items():
        for point in plan.points[experiment]:
            for name in asked.evaluations:
                wanting.setdefault(point, {}).setdefault(name, []).append(experiment)
    order = {name: position for position, name in enumerate(plan.evaluations)}
    found: dict[tuple[str, ...], list[Point]] = {}
    deciding: set[tuple[str, ...]] = set()
    for point, wanted in wanting.items():
        kinds: dict[Any, list[str]] = {}
        for name in sorted(wanted, key=order.__getitem__):
            decides = any(plan.decides(experiment, name) for experiment in wanted[name])
            if decides:
                deciding.add((name,))
            alone = name if decides or plan.compares_with_dense(name) else ""
            kind = (plan.evaluations[name].dtype, alone, *wanted[name])
            kinds.setdefault(kind, []).append(name)
        for members in kinds.values():
            found.setdefault(tuple(members), []).append(point)
    sets: dict[str, Together] = {}
    for evaluations, points in found.items():
        label = _label(evaluations)
        if label in sets:
            label = f"{label}_{_hash(evaluations)}"
        sets[label] = Together(label, evaluations, tuple(points), evaluations in deciding)
    return tuple(sets.values())


def settings_of(plan: Plan, evaluation: str) -> dict[str, Any]:
    """What ``fusegpt evaluate --evaluation NAME=...`` takes."""
    entry = plan.evaluations[evaluation]
    return {
        "eval": entry.eval,
        "dtype": entry.dtype,
        "settings": entry.settings,
        "corpora": plan.corpora_of(evaluation),
        "tasks": plan.tasks_of(evaluation),
    }


def _label(names: tuple[str, ...]) -> str:
    label = "_".join(re.sub(r"[^a-z0-9]+", "_", name) for name in names)
    if len(label) <= LONGEST or len(names) == 1:
        return label
    return f"{_label(names[:1])}_and_{len(names) - 1}_more"


def _hash(names: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:8]
