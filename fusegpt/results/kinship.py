"""Whether a record belongs where it lies or is given: the right model, recipe, step, parents."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fusegpt.artifacts import sha256
from fusegpt.results import layout as at
from fusegpt.results.base import Record
from fusegpt.results.files import Parent
from fusegpt.results.models import Checkpoint, Evaluation, Slice
from fusegpt.results.records import Scores, Start, Step
from fusegpt.results.shards import PartialScores

__all__ = ["is_of_dense", "is_of_model", "misplaced", "parents_of"]

FROM_BEFORE = (at.scores, at.scores_part, at.manifest)
"""Records of a step, whose parent is a step before it."""


def parents_of(record: Record) -> list[Parent]:
    """Return what a record names as its parents."""
    one: Parent | None = getattr(record, "parent", None)
    several: list[Parent] = getattr(record, "parents", [])
    return [*([one] if one else []), *several]


def is_of_model(result: Evaluation, record: Checkpoint, file: Path) -> bool:
    """Whether an evaluation measured a checkpoint, or the step that was merged as it is.

    Args:
        result: The evaluation; one that names no parent is told by its blocks.
        record: What the checkpoint's record says.
        file: That record.
    """
    if result.parent is None:
        return (result.model.num_blocks, result.model.kept) == (record.num_blocks, record.kept)
    same = {sha256(file)}
    if record.parent is not None and record.finish is None and not isinstance(record, Slice):
        same.add(record.parent.sha256)
    return result.parent.sha256 in same


def is_of_dense(result: Evaluation, record: Checkpoint) -> bool:
    """Whether an evaluation measured a model that a checkpoint may have been made from."""
    fetched = result.parent is None or Path(result.parent.path).name == at.SOURCE
    return fetched and result.model.kept == list(range(record.num_blocks))


def misplaced(found: at.Found, record: Record, results: Path) -> Iterator[str]:
    """Yield a line for each sign that a record belongs to another place.

    Args:
        found: Where it lies.
        record: What it says.
        results: The results folder.
    """
    recipe = found.names.get("recipe")
    said = getattr(record, "recipe_id", None) if isinstance(record, Checkpoint) else None
    said = record.recipe if isinstance(record, Scores | PartialScores | Start | Step) else said
    if None not in (recipe, said) and said != recipe:
        yield f"{found.path}: must be of recipe {recipe}, is of {said}"
    step = getattr(record, "step", None)
    if "k" in found.names and step is not None and step != found.place.number:
        yield f"{found.path}: must be of step {found.place.number}, is of step {step}"
    parent: Parent | None = getattr(record, "parent", None)
    if parent is not None:
        place = Path(os.path.relpath(parent.file(found.path.parent), results))
        above = None if place.parts[0] == ".." else at.parse(results / place, results)
        steps = _recipe_of_steps(record) or recipe
        if above is not None and not _is_kin(
            found, above, f"{at.FOLDER}/{place.as_posix()}", steps
        ):
            yield f"{found.path}: must not follow from {place}, which is of something else"


def _recipe_of_steps(record: Record) -> str | None:
    """Name of the recipe that a finish goes on from; None: the record is of no finish."""
    recipe = (record.recipe or {}) if isinstance(record, Checkpoint) else {}
    if not recipe.get("finish"):
        return None
    return str(recipe.get("chain") or recipe.get("name"))


def _is_kin(found: at.Found, above: at.Found, path: str, steps: str | None) -> bool:
    """Whether a record may follow from another, which lies at ``path``.

    Args:
        found: Where the record lies.
        above: Where the other one lies.
        path: The same as text.
        steps: Id of the recipe that the steps belong to, or its name without the hash.
    """
    if found.kind == at.answers:  # any model may teach
        return above.kind == at.source
    if found.names.get("model") != above.names.get("model"):
        return False
    if found.kind == at.export:
        return path == (at.source if found.point.is_dense else at.published)(found.point)
    if found.kind == at.export_evaluation:
        return path == at.export(found.point, export=found.names["export"])
    if found.kind == at.evaluation:
        return path in (at.measured(found.point), at.published(found.point))
    if not {"recipe", "k"} <= found.names.keys() & above.names.keys():
        return True
    here, there = found.place.number, above.place.number
    follows = there < here if found.kind in FROM_BEFORE else there == here
    owner = above.names["recipe"]
    return follows and steps in (owner, owner.rpartition("-")[0])
