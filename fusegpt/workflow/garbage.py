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
from fusegpt.workflow import paths
from fusegpt.workflow.dense_scores import dense_scores
from fusegpt.workflow.experiment import Plan
from fusegpt.workflow.members import DENSE
from fusegpt.workflow.slices import kept_slices, sliced

__all__ = ["Garbage", "find", "remove"]

LEFTOVER = re.compile(r".+\.tmp-[0-9a-f]{32}")
QUIET_SECONDS = 3600.0
"""A half-written file that nobody touched for so long belongs to nobody."""

PATTERNS = (
    "models/*",
    "data/*/*.parquet",
    "scores/*/*.json",
    "runs/*/*",
    "runs/*/*/step-*",
    "checkpoints/*/*/step-*",
    "slices/*/*/sparsity-*",
    "cards/*/*/step-*.md",
    "cards/*/*/sparsity-*.md",
    "evaluations/*/*/step-*/*.json",
    "evaluations/*/*/sparsity-*/*.json",
    "tables/*.csv",
    "tables/*.json",
    "figures/*.svg",
)
"""What experiments can name; anything else is left alone."""


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
        plan: Of all experiments whose results stay.
        directory: Where ``results`` and ``.snakemake`` lie.
    """
    results, kept = directory / "results", _named(plan)
    found: list[Garbage] = []
    gone: set[Path] = set()
    for path in sorted({path for pattern in PATTERNS for path in results.glob(pattern)}):
        leftover = LEFTOVER.fullmatch(path.name) or path.name.startswith(".")
        if leftover or gone & {*path.parents} or path.relative_to(directory).as_posix() in kept:
            continue
        gone.add(path)
        found.append(_judged(path, "unnamed", directory))
    for path in sorted(results.rglob("*.tmp-*")):
        if LEFTOVER.fullmatch(path.name) and not gone & {*path.parents} and _is_quiet(path):
            gone.add(path)
            found.append(_judged(path, "leftover", directory))
    return found[::-1]


def remove(garbage: Garbage) -> None:
    """Take it out of sight in one move, then delete it: a kill leaves no half artifact."""
    assert not garbage.in_use, garbage
    path = garbage.path
    if not LEFTOVER.fullmatch(path.name):
        path = path.rename(path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}"))
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _named(plan: Plan) -> set[str]:
    """Every path that an experiment needs or makes, relative to the working directory."""
    found = {paths.table(name) for name in plan.experiments}
    found |= {str(Path(paths.table(name)).with_suffix(".json")) for name in plan.experiments}
    found |= {paths.figure(name) for name in plan.experiments}
    for (model, recipe, step), evaluations in plan.evaluated.items():
        found |= {paths.evaluation(model, recipe, step, name) for name in evaluations}
        found |= {_parent(paths.model(name)) for name in _bases(plan, model)}
        if recipe != DENSE:
            found |= set(_of_run(plan, model, recipe, step))
    for (model, recipe, sparsity), evaluations in sliced(plan).items():
        found |= {paths.slice_evaluation(model, recipe, sparsity, name) for name in evaluations}
        found |= {_parent(paths.model(name)) for name in _bases(plan, model)}
        found |= {_parent(paths.sliced(model, recipe, sparsity))}
        found |= {paths.windows(model, plan.windows_of(recipe, "calibration").id)}
    found |= {paths.slice_card(*point) for point in kept_slices(plan)}
    for point in plan.kept:
        found |= {_parent(paths.checkpoint(*point)), paths.card(*point)}
    return found


def _of_run(plan: Plan, model: str, recipe: str, last: int) -> Iterator[str]:
    yield _parent(_parent(paths.manifest(model, recipe, 0)))
    yield from (_parent(paths.manifest(model, recipe, step)) for step in range(last + 1))
    yield paths.windows(model, plan.windows_of(recipe, "calibration").id)
    first = last if plan.recipes[recipe].selection == "contiguous" else 1
    yield paths.dense_scores(model, dense_scores(plan, recipe, first).id)
    if plan.recipes[recipe].needs_windows:
        yield paths.windows(model, plan.windows_of(recipe, "finetune").id)
    if getattr(plan.recipes[recipe], "recovers_at_end", False):
        yield _parent(paths.checkpoint(model, recipe, last))


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
    results = directory / "results"
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
