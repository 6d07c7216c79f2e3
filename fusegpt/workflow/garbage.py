"""What lies in a results directory that no experiment names, and what crashes left behind."""

from __future__ import annotations

import re
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fusegpt.locks import holder
from fusegpt.results import layout as at
from fusegpt.results.point import Point
from fusegpt.workflow.dense_scores import dense_scores
from fusegpt.workflow.exported import all_exports
from fusegpt.workflow.generated import all_written
from fusegpt.workflow.plan import Plan

__all__ = ["Garbage", "find", "remove"]

QUIET_SECONDS = 3600.0
"""A half-written file that nobody touched for so long belongs to nobody."""

KINDS = (
    *(at.model_directory, at.windows, at.generated, at.answers_directory, at.dense_scores),
    *(at.scores_part, at.dense_scores_part),
    *(at.run_directory, at.step_directory),
    *(at.checkpoint_directory, at.slice_directory, at.card, at.evaluation),
    *(at.export_directory, at.export_evaluation),
    *(at.table, at.table_record, at.figure),
)
"""What experiments can name; anything else is left alone."""

PARTS = {at.scores_part: at.scores, at.dense_scores_part: at.dense_scores}
"""Parts of scores, and what they are added up to."""


@dataclass(frozen=True)
class Garbage:
    """Something that can go.

    Attributes:
        path: A file or a directory.
        size: In bytes.
        reason: ``unnamed`` or ``leftover``; ``in use by ...``: it stays.
    """

    path: Path
    size: int
    reason: str

    @property
    def in_use(self) -> bool:
        """Whether a running job holds it."""
        return self.reason.startswith("in use")


def find(plan: Plan, directory: Path) -> list[Garbage]:
    """List what may go, children before parents.

    Args:
        plan: What all experiments whose results stay ask for.
        directory: Where ``results`` and ``.snakemake`` lie.
    """
    results, kept = directory / at.FOLDER, _named(plan)
    found: list[Garbage] = []
    gone: set[Path] = set()
    there = sorted(
        (one for kind in KINDS for one in kind.found_in(results)), key=lambda one: one.path
    )
    for one in there:
        path = one.path
        if gone & {*path.parents} or path.relative_to(directory).as_posix() in kept:
            continue
        if _is_waited_for(one, kept, directory):
            continue
        gone.add(path)
        found.append(_judged(path, "unnamed", directory))
    for path in at.leftovers(results):
        if not gone & {*path.parents} and _is_quiet(path):
            gone.add(path)
            found.append(_judged(path, "leftover", directory))
    return found[::-1]


def remove(garbage: Garbage) -> None:
    """Take it out of sight in one move, then delete it: a kill leaves no half artifact."""
    assert not garbage.in_use, garbage
    path = garbage.path
    if not at.is_leftover(path):
        path = path.rename(path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}"))
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _named(plan: Plan) -> set[str]:
    """Every path that an experiment needs or makes, relative to the working directory."""
    found = {
        of(experiment=name)
        for name in plan.experiments
        for of in (at.table, at.table_record, at.figure)
    }
    for point, evaluations in plan.evaluated.items():
        found |= {at.evaluation(point, evaluation=name) for name in evaluations}
        found |= {at.model_directory(model=name) for name in _bases(plan, point.model)}
        if not point.is_dense:
            found |= set(_of_recipe(plan, point))
    for point in plan.kept:
        found |= {_parent(at.published(point)), at.card(point)}
    for export in all_exports(plan):
        found |= {_parent(export.record), *export.results}
        if windows := export.target.windows:
            model = export.point.model
            found.add(at.windows(model=model, windows=windows))
            written = all_written(plan.windows[windows].corpora, plan.corpora)
            found |= {at.generated(model=model, generated=name) for name in written}
    return found


def _is_waited_for(part: at.Found, kept: set[str], directory: Path) -> bool:
    """Whether a part of scores is still to be added up, for what an experiment names."""
    if part.kind not in PARTS:
        return False
    names = {name: text for name, text in part.names.items() if name != "shard"}
    whole = PARTS[part.kind](**names)
    owner = at.step_directory(**names) if part.kind == at.scores_part else whole
    return owner in kept and not (directory / whole).is_file()


def _of_recipe(plan: Plan, point: Point) -> Iterator[str]:
    """What a pruned or sliced model is made of: itself, its windows, its steps, its scores."""
    model, recipe = point.model, plan.recipes[point.recipe]
    for role in recipe.roles:
        windows = plan.windows_of(point.recipe, role)
        yield at.windows(model=model, windows=windows.id)
        for name in all_written(windows.corpora, plan.corpora):
            yield at.generated(model=model, generated=name)
    if point.place.slices:
        yield _parent(at.sliced(point))
        return
    run, last = plan.steps_to(point), point.place.number
    yield at.run_directory(run)
    for step in range(last + 1):
        yield at.step_directory(model=model, recipe=run.recipe, k=step)
    first = last if recipe.selection == "contiguous" else 1
    yield at.dense_scores(model=model, scores=dense_scores(plan, run.recipe, first).id)
    if recipe.trains_at_end:
        yield _parent(at.checkpoint(point))
    if (answers := plan.answers_of(point.recipe)) is not None:
        yield at.answers_directory(model=model, answers=answers.id)
        for name in _bases(plan, answers.teacher or model):
            yield at.model_directory(model=name)


def _bases(plan: Plan, model: str) -> Iterator[str]:
    """A model and those it is made from."""
    while model in plan.models:
        yield model
        kind, _, model = plan.models[model].source.partition(":")
        if kind != "made":
            return


def _parent(path: str) -> str:
    return Path(path).parent.as_posix()


def _judged(path: Path, reason: str, directory: Path) -> Garbage:
    user = _user(path, directory)
    inside = [file for file in path.rglob("*")] if path.is_dir() else [path]
    size = sum(file.lstat().st_size for file in inside if file.is_file())
    return Garbage(path, size, f"in use by {user}" if user else reason)


def _user(path: Path, directory: Path) -> str | None:
    """Who works on a path, above it or below it: a verb's lock, or Snakemake's."""
    results = directory / at.FOLDER
    above = [path, *(parent for parent in path.parents if results in parent.parents)]
    below = [lock.with_name(lock.name[1:].removesuffix(".lock")) for lock in path.rglob(".*.lock")]
    plain = [Path(re.sub(r"\.tmp-[0-9a-f]{32}$", "", str(path)))]
    for output in [*above, *below, *plain]:
        if (user := holder(output)) is not None:
            return user
    for locked in _snakemake_outputs(directory):
        if locked == path or path in locked.parents or locked in path.parents:
            return "snakemake (or --unlock is due)"
    return None


def _snakemake_outputs(directory: Path) -> set[Path]:
    """What a running Snakemake has put under its lock here."""
    locks = (directory / ".snakemake" / "locks").glob("*.output.lock")
    return {directory / line for file in locks for line in file.read_text().splitlines() if line}


def _is_quiet(path: Path) -> bool:
    newest = max((file.lstat().st_mtime for file in [path, *path.rglob("*")]), default=0.0)
    return time.time() - newest > QUIET_SECONDS
