"""What a job is given: a step of its recipe; scores of this model, of units that it has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from fusegpt.artifacts import sha256
from fusegpt.errors import ArtifactError, ConfigError
from fusegpt.pruning.recipe import Recipe
from fusegpt.results.history import History, read_history
from fusegpt.results.records import Scores, read_manifest
from fusegpt.units import KINDS

__all__ = ["check_first_scores", "check_recipe", "check_scores"]


def check_recipe(manifest: Path, *recipes: Recipe) -> None:
    """Refuse a step that a recipe of other settings made; one that names no recipe is not asked.

    Args:
        manifest: The manifest of the step.
        recipes: Those that may have made it.

    Raises:
        ConfigError: None of them did.
    """
    made = read_manifest(manifest).recipe
    own = [recipe.id.rpartition("-")[2] for recipe in recipes]
    if made is not None and made.rpartition("-")[2] not in own:
        raise ConfigError(
            f"{manifest}: must be a step of recipe {recipes[0].id}, is one of {made}; give the"
            " settings in recipe.json of its run"
        )


def check_scores(scores: Scores, where: Path, recipe: Recipe, manifest: Path) -> None:
    """Refuse scores that belong to another step, model, recipe or metric.

    What the file does not say, such as scores written by hand, is not asked for.

    Args:
        scores: The scores of the step.
        where: Their file.
        recipe: The recipe of the run.
        manifest: The manifest of the step before.

    Raises:
        ArtifactError: They do not belong here; the message says what must hold and what came.
    """
    history = read_history(manifest, whole=False)
    found = *_of_recipe(scores, recipe), *_of_model(scores, history, manifest)
    _refuse((*found, *_of_open_units(scores, recipe, history)), where)


def check_first_scores(scores: Scores, where: Path, recipe: Recipe, manifest: Path) -> None:
    """Refuse scores that are not those of step 1 of a run.

    Args:
        scores: What a ``one_shot`` selection keeps.
        where: Their file.
        recipe: The recipe of the run.
        manifest: The manifest of a step of the run.

    Raises:
        ArtifactError: They are others; the message says what must hold and what came.
    """
    history = read_history(manifest, whole=False)
    links = history.links
    begun = links[0].record.parent.sha256 if links else sha256(manifest)
    found = [*_of_recipe(scores, recipe)]
    if scores.parent is not None and scores.parent.sha256 not in (
        begun,
        history.start.parent.sha256,
    ):
        found.append(("of the first step of this run", f"those of {scores.parent.path}"))
    _refuse(found, where)


def _refuse(found: Iterable[tuple[str, object]], where: Path) -> None:
    for must, got in found:
        raise ArtifactError(f"{where}: must be scores {must}, got {got}; score this step again")


def _of_recipe(scores: Scores, recipe: Recipe) -> Iterator[tuple[str, object]]:
    """What must hold for a recipe and does not, with what came."""
    own = recipe.importance.own()
    if scores.recipe not in (None, recipe.id):
        yield f"for recipe {recipe.id}", f"those for {scores.recipe}"
    if scores.metric != recipe.metric:
        yield f"by {recipe.metric}", f"those by {scores.metric}"
    if scores.settings not in ({}, own):
        yield f"by {recipe.metric} with {own}", scores.settings
    kinds = {unit.kind for unit in scores.chosen} - {*KINDS[recipe.granularity]}
    if kinds:
        yield f"of granularity {recipe.granularity}", f"a selected {kinds.pop()}"


def _of_open_units(
    scores: Scores, recipe: Recipe, history: History
) -> Iterator[tuple[str, object]]:
    """What must hold for what a recipe protects and does not, with what came."""
    may_go = recipe.importance.open_among(history.kept)
    protected = [unit for unit in scores.chosen if unit.index not in may_go]
    if protected:
        yield (
            f"that select what recipe {recipe.name!r} lets go",
            f"{protected[0]}, which it protects",
        )


def _of_model(scores: Scores, history: History, manifest: Path) -> Iterator[tuple[str, object]]:
    """What must hold for the model of a step and does not, with what came."""
    same = {sha256(manifest)} | (set() if history.links else {history.start.parent.sha256})
    if scores.parent is not None and scores.parent.sha256 not in same:
        yield f"of the model of {manifest}", f"those of another one, {scores.parent.path}"
    if not scores.chosen:
        yield "with a selected unit", "none"
    step = len(history.removed) + len(scores.chosen)
    if scores.step not in (None, step):
        yield f"for step {step}", f"those for step {scores.step}"
    named = {row.unit for row in scores.units} | {*scores.chosen}
    gone = [u for u in sorted(named) if u.index not in history.kept or u in history.removed]
    if gone:
        yield "of units that the model has", gone[0]
