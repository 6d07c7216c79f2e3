"""The jobs of a run, from files to files: each verb of the command line calls one of these."""

from __future__ import annotations

from contextlib import ExitStack
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from fusegpt.artifacts import check_free, sha256
from fusegpt.config import Reuse, Weights
from fusegpt.data.streamed import stream_windows
from fusegpt.data.window_files import windows_for
from fusegpt.data.windows import read_meta
from fusegpt.errors import ConfigError, DataError, Stopped
from fusegpt.models.checkpoints.load import streamed_where
from fusegpt.models.structure.branches import plain_ids
from fusegpt.parallel import leader_goes_on
from fusegpt.pruning.asked import removals_from
from fusegpt.pruning.budget import check_sparsity
from fusegpt.pruning.finish import finish as finish_pruned
from fusegpt.pruning.finish_job import taught
from fusegpt.pruning.given import check_recipe, check_scores
from fusegpt.pruning.loop import prune
from fusegpt.pruning.position import Position
from fusegpt.pruning.publish import publish
from fusegpt.pruning.quality import Bound, Keeper, check_stops, most_from
from fusegpt.pruning.recipe import Recipe
from fusegpt.pruning.rerank import forget
from fusegpt.pruning.score_jobs import scores_streamed
from fusegpt.pruning.step import fuse_step
from fusegpt.pruning.target import Target
from fusegpt.pruning.trajectory import fingerprint, load_step, write_step
from fusegpt.recovery.resume import Checkpoint as Resume
from fusegpt.recovery.room import Memory, using
from fusegpt.results import layout
from fusegpt.results.base import read
from fusegpt.results.files import Parent
from fusegpt.results.history import read_history
from fusegpt.results.models import Checkpoint
from fusegpt.results.records import Removal, Scores
from fusegpt.runtime import Timer, peak_memory_gib

__all__ = ["fuse_model", "merge_model", "prune_model"]


def fuse_model(
    path: Path,
    recipe: Recipe,
    scores: Path,
    output: Path,
    *,
    finetune: Path | None = None,
    checkpoint_seconds: float = 60.0,
    memory: Memory = "auto",
    compiled: bool = False,
    device: str = "cpu",
    weights: Weights = "auto",
) -> Removal:
    """Remove the selected unit, recover, and write the step.

    A killed job goes on from its last in-step checkpoint, or its last finished trial, when it is
    started again.

    Args:
        path: Manifest of the step before.
        recipe: The run's.
        scores: What ``score_model`` wrote for this step.
        output: Directory of the step.
        finetune: Windows file to recover on; not needed when nothing trains at a step.
        checkpoint_seconds: Least time between two in-step checkpoints.
        memory: ``spare``: states of a tuning lie in a file beside the step, and activations are
            computed twice. ``keep``: neither. ``auto``: as what is free tells. The result is the
            same.
        compiled: Train compiled blocks; the step differs in the last digits, and says so.
        device: Where to work.
        weights: All in memory, or read block by block; the step is the same.

    Returns:
        What the step did.

    Raises:
        ArtifactError: A file is missing or corrupt, or the scores belong to another step, model,
            recipe or metric.
        ConfigError: The step before is another recipe's.
        DataError: The recovery trains and there are no windows.
        NumericsError: A loss is NaN or infinite.
    """
    check_recipe(path, recipe)
    selected = read(scores, Scores)
    check_scores(selected, scores, recipe, path)
    inputs = {"scores": scores}
    if finetune is not None and recipe.needs_windows and not recipe.recovers_at_end:
        inputs["finetune"] = finetune
    windows = windows_for(path, inputs["finetune"]) if "finetune" in inputs else None
    known = fingerprint(recipe, [path, *inputs.values()]) + (" compiled" if compiled else "")
    resume = Resume(output / layout.RESUME, known, every_seconds=checkpoint_seconds)
    able = _fuses_streamed(recipe)
    weights = streamed_where(weights, able, f"the recovery of recipe {recipe.name!r}")
    model = load_step(path, recipe, device, weights)
    with using(memory, compiling=compiled):
        done, report = fuse_step(model, recipe, selected, windows, checkpoint=resume)
    leader_goes_on()
    write_step(output, model, recipe, done, report, parent=path, inputs=inputs)
    resume.remove()
    forget(resume)
    return done


def merge_model(
    path: Path,
    recipe: Recipe,
    output: Path,
    *,
    finetune: Path | None = None,
    zeros: bool = False,
    device: str = "cpu",
    weights: Weights = "auto",
) -> Checkpoint:
    """Write the model of a step as a checkpoint, after the recovery if that comes at the end.

    Args:
        path: Manifest of the step.
        recipe: The run's.
        output: Directory of the checkpoint; must not exist or be empty.
        finetune: Windows file for a recovery at the end.
        zeros: Write removed attentions and mlps as zeros, for programs that know only the base
            architecture.
        device: Where to work.
        weights: All in memory, or passed on block by block; the files are the same.

    Returns:
        The record of the checkpoint, without the checksums of its files.

    Raises:
        ArtifactError: A file is missing or corrupt, or the output is taken.
        ConfigError: The step is another recipe's, or what trains at the end cannot: it is a finish,
            or nothing was removed.
        DataError: The recovery trains and there are no windows.
    """
    check_recipe(path, recipe)
    recipe.that_merges()
    steps: list[Removal] = [*read_history(path).steps]
    made: dict[str, Any] = {"parent": Parent.of(path, output)}
    resume = None
    if recipe.recovers_at_end:
        finetune = _needed(recipe, finetune)
        if not steps:
            raise ConfigError(f"{path}: must be a step that removed something, is the dense model")
    with Timer() as timer:
        able = _is_whole_before(recipe) and recipe.checkpoint_dtype == "source"
        weights = streamed_where(weights, able, f"merging with recipe {recipe.name!r}")
        model = load_step(path, recipe, device, weights)
        if finetune is not None and recipe.recovers_at_end:
            resume = Resume(layout.unfinished(output), fingerprint(recipe, [path, finetune]))
            record = finish_pruned(model, recipe, windows_for(path, finetune), checkpoint=resume)
            steps[-1] = steps[-1].plus(finish=record)
            made["inputs"] = {"finetune": sha256(finetune)}
    made |= {"seconds": round(timer.seconds, 3), "memory_gib": round(peak_memory_gib(), 3)}
    written = publish(model, recipe, steps, output, made=made, zeros=zeros)
    if resume is not None:
        resume.remove()
    return written


def prune_model(
    path: Path,
    recipe: Recipe,
    sparsity: Decimal | float | str | Target | Bound | None,
    calibration: Path | None,
    output: Path,
    *,
    finetune: Path | None = None,
    finish: Path | None = None,
    device: str = "cpu",
    weights: Weights = "auto",
    reuse: Reuse = "auto",
    compiled: bool = False,
) -> Checkpoint:
    """Prune a model in one process, and write the checkpoint.

    Finished steps are kept beside the output until it is whole: a run that was stopped goes on
    where it was when it is started again.

    Args:
        path: Directory of a model, or of a checkpoint of ours: what it lacks counts as removed.
        recipe: The method and its settings.
        sparsity: Fraction of the dense model's units to remove, in [0, 1); or a target, such as
            ``Target(parameters="100M")``; or what is to be kept, a ``Bound``. None: all that the
            metric ``given`` names.
        calibration: Windows file to score on; not needed when the metric looks at no data.
        output: Directory of the checkpoint; must not exist or be empty.
        finetune: Windows file to recover on; not needed when nothing trains.
        finish: Windows file for the recipe's finish; None: that of ``finetune``.
        device: Where to work.
        weights: All in memory, or read block by block; the checkpoint is the same.
        reuse: Whether a scoring goes on from hidden states of the one before; scores are the same.
        compiled: Train compiled blocks in the tunings of steps; their records say so.

    Returns:
        The record of the checkpoint, without the checksums of its files.

    Raises:
        ArtifactError: A file is missing or corrupt, or the output is taken.
        ConfigError: The sparsity is outside [0, 1), nothing would be left, or the target or the
            bound cannot be met.
        DataError: The recovery trains and there are no windows.
    """
    keeper = None
    if isinstance(sparsity, Bound):
        check_stops(recipe)
        keeper = Keeper(path, sparsity)
    elif sparsity is not None and not isinstance(sparsity, Target):
        check_sparsity(sparsity)
    files = {}
    if calibration is not None:
        files["calibration"] = calibration
    elif recipe.importance.reads:
        raise DataError(f"recipe {recipe.name!r} scores: give its windows with --calibration")
    if recipe.needs_windows:
        files["finetune"] = _needed(recipe, finetune)
    if recipe.finish is not None:
        files["finish"] = _needed(recipe, finish or finetune)
    elif finish is not None:
        raise ConfigError(f"recipes.{recipe.name}: has no finish; leave out --finish, or name one")
    check_free(output)
    windows = {role: windows_for(path, file) for role, file in files.items() if role != "finish"}
    able = scores_streamed(recipe) and _fuses_streamed(recipe) and _is_whole_before(recipe)
    weights = streamed_where(weights, able, f"pruning with recipe {recipe.name!r}")
    model = load_step(path, recipe, device, weights)
    seen = next(iter(windows.values())) if windows else plain_ids(model, 1, 8)
    tensors = (seen, windows.get("finetune"))
    if isinstance(sparsity, Bound):
        count = most_from(model, recipe)
    else:
        count = removals_from(model, recipe, sparsity)
    position = Position(output, recipe, path, files, count, compiled=compiled)
    try:
        with using(compiling=compiled), ExitStack() as stack:
            if keeper is not None:
                run = partial(prune, model, recipe, count, *tensors, position=position, reuse=reuse)
                count = keeper.count(model, lambda keeps: len(run(keeps=keeps)))
                del run, model  # before it is there anew
                model = load_step(path, recipe, device, weights)
                position = Position(output, recipe, path, files, count, compiled=compiled)
            last: dict[str, Any] = {}
            if recipe.finish is not None:
                output.parent.mkdir(parents=True, exist_ok=True)
                teacher = taught(path, recipe, files["finish"], output, device=device)
                last["finish_windows"] = stream_windows(path, files["finish"], output.parent)
                last["answers"] = stack.enter_context(teacher)
            steps = prune(model, recipe, count, *tensors, **last, position=position, reuse=reuse)
            last.clear()  # a deleted file of windows takes room on the disk as long as it is mapped
        data = {role: read_meta(file) for role, file in files.items()}
        asked = {"target": sparsity.text} if isinstance(sparsity, (Target, Bound)) else {}
        written = publish(model, recipe, steps, output, data=data, made=asked)
    except Stopped as stopped:
        raise position.told(stopped) from None
    position.remove()
    return written


def _fuses_streamed(recipe: Recipe) -> bool:
    """Whether removing and recovering does; another dtype on disk rounds every weight."""
    streams = recipe.recovers_at_end or (recipe.recovery.streams and recipe.rerank is None)
    return streams and recipe.checkpoint_dtype == "source"


def _is_whole_before(recipe: Recipe) -> bool:
    """Whether nothing is left to train after the last step."""
    return not recipe.recovers_at_end and recipe.finish is None


def _needed(recipe: Recipe, finetune: Path | None) -> Path:
    """The fine-tuning windows of a recipe that cannot do without."""
    if finetune is None:
        raise DataError(f"recipe {recipe.name!r} trains: give its windows with --finetune")
    return finetune
