"""One run of a recipe on the page: its steps, and its recoveries after the last removal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from fusegpt.results import layout as at
from fusegpt.results.history import Link, read_history, step_of
from fusegpt.results.models import read_checkpoint
from fusegpt.results.point import DENSE, Place, Point
from fusegpt.results.recovered import Finish

__all__ = ["Run", "read_finishes", "read_runs"]


@dataclass(frozen=True)
class Run:
    """A recipe with one seed on one model.

    Attributes:
        label: What it is called; several seeds are told apart.
        model: Name of the dense model.
        recipe_id: Id of the recipe.
        links: Its steps, the first one first; a sliced model has none.
        finishes: Recoveries after the last removal, by the number of removals.
    """

    label: str
    model: str
    recipe_id: str
    links: tuple[Link, ...] = ()
    finishes: Mapping[int, Finish] = field(default_factory=dict)


def read_runs(rows: pd.DataFrame, results: Path) -> list[Run]:
    """Read every run of a model, as far as a table shows it.

    Args:
        rows: Rows of ``collect`` of one model.
        results: The results folder.

    Raises:
        ArtifactError: A manifest or the record of a checkpoint is missing or damaged.
    """
    pruned = rows[rows["recipe"] != DENSE]
    several = pruned["seed"].nunique() > 1
    keys = ["recipe", "seed", "model", "recipe_id"]
    found = []
    for (recipe, seed, model, recipe_id), group in pruned.groupby(keys, sort=False):
        last = Point(model, recipe_id, Place.step(int(group["step"].max())))
        links = _links(last, results) if last.place.number else ()
        label = f"{recipe} seed {seed}" if several else recipe
        finishes = read_finishes(results, model, recipe_id)
        found.append(Run(label, model, recipe_id, links, finishes))
    return found


def read_finishes(results: Path, model: str, recipe_id: str) -> dict[int, Finish]:
    """Return a run's recoveries after the last removal, by the number of removals."""
    found = {}
    for file in at.checkpoint.found_in(results, model=model, recipe=recipe_id):
        finish = read_checkpoint(file.path).finish
        if finish is not None:
            found[file.place.number] = finish
    return found


def _links(last: Point, results: Path) -> tuple[Link, ...]:
    return read_history(step_of(results, last), whole=False).links
