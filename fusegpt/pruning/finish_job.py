"""The job of a finish: from a step to a trained checkpoint; its teacher answers if need be."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fusegpt import parallel
from fusegpt.artifacts import check_free, sha256
from fusegpt.data.directories import file_marks, text_config
from fusegpt.data.streamed import stream_windows
from fusegpt.data.window_files import directory_for
from fusegpt.errors import ConfigError, DataError
from fusegpt.models.checkpoints.load import load
from fusegpt.pruning.finish import finish
from fusegpt.pruning.given import check_recipe
from fusegpt.pruning.publish import publish
from fusegpt.pruning.recipe import Recipe
from fusegpt.pruning.trajectory import fingerprint, load_step
from fusegpt.recovery.healing.answers import AnswersFile, answer_windows, read_answers
from fusegpt.recovery.healing.distill import check_vocabulary
from fusegpt.recovery.resume import Checkpoint as Resume
from fusegpt.recovery.settings.finish import Distill
from fusegpt.results import layout
from fusegpt.results.files import Parent
from fusegpt.results.history import dense_directory, read_history
from fusegpt.results.models import Checkpoint
from fusegpt.results.records import AnswersRecord, Removal
from fusegpt.runtime import Timer, peak_memory_gib

__all__ = ["finish_model", "taught"]


def finish_model(
    path: Path,
    recipe: Recipe,
    output: Path,
    *,
    windows: Path,
    answers: Path | None = None,
    teacher: Path | None = None,
    checkpoint_seconds: float = 300.0,
    device: str = "cpu",
) -> Checkpoint:
    """Train the model of a step as a whole, and write it as a checkpoint.

    A killed job goes on from its last saved position when it is started again.

    Args:
        path: Manifest of the step.
        recipe: It has a finish; its steps led to ``path``.
        output: Directory of the checkpoint; must not exist or be empty.
        windows: Windows file to train on.
        answers: What a teacher says of these windows (``fusegpt answers``).
        teacher: Directory of the model that the recipe calls its teacher, where there are no
            answers yet; None: the dense model.
        checkpoint_seconds: Least time between two saved positions.
        device: Where to work.

    Returns:
        The record of the checkpoint, without the checksums of its files.

    Raises:
        ArtifactError: A file is missing or corrupt, or the output is taken.
        ConfigError: The recipe has no finish, its steps are not those that led here, or the teacher
            has fewer tokens than are to be kept.
        DataError: The windows or the answers do not fit the model or the recipe.
    """
    recipe.that_finishes()
    check_recipe(path, recipe.steps, recipe)
    steps: list[Removal] = [*read_history(path).steps]
    if not steps:
        raise ConfigError(f"{path}: must be a step that removed something, is the dense model")
    check_free(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    inputs = {"finish": windows}
    if answers is not None:
        inputs["answers"] = answers if answers.is_file() else answers / layout.ANSWERS
    known = _known(recipe, [path, *inputs.values()], teacher)
    resume = Resume(layout.unfinished(output), known, every_seconds=checkpoint_seconds)
    with Timer() as timer:
        data = stream_windows(path, windows, output.parent)
        with taught(path, recipe, windows, output, answers, teacher, device=device) as given:
            model = load_step(path, recipe, device)
            model.fused.clear()
            record = finish(model, recipe, data, answers=given, checkpoint=resume)
        del data  # so does its file, which has no name
    parallel.leader_goes_on()
    steps[-1] = steps[-1].plus(finish=record)
    made: dict[str, Any] = {"parent": Parent.of(path, output)}
    made["inputs"] = {role: sha256(file) for role, file in inputs.items()}
    made |= {"seconds": round(timer.seconds, 3), "memory_gib": round(peak_memory_gib(), 3)}
    written = publish(model, recipe, steps, output, made=made)
    resume.remove()
    return written


def _known(recipe: Recipe, files: Sequence[Path], teacher: Path | None) -> str:
    """One string for everything that the training depends on, a teacher that answers now too."""
    known = fingerprint(recipe, files)
    if teacher is None:
        return known
    return hashlib.sha256(json.dumps([known, file_marks(teacher)]).encode()).hexdigest()


def _check_taught(answers: AnswersRecord, where: Path, path: Path, recipe: Recipe) -> None:
    """Refuse answers of another model than the recipe says, or in another type."""
    assert isinstance(recipe.finish, Distill)
    parent, dense = answers.parent, read_history(path, whole=False).start.parent
    if answers.dtype != recipe.dtype:
        raise DataError(
            f"{where}: must be answers in {recipe.dtype}, as recipe {recipe.name!r} computes, are"
            f" in {answers.dtype}; make them anew with --dtype {recipe.dtype}"
        )
    if recipe.finish.teacher is None and parent is not None and parent.sha256 != dense.sha256:
        raise DataError(
            f"{where}: must be answers of the dense model, {dense.path}, are those of another one,"
            f" {parent.path}; make them anew, or name the teacher in the recipe"
        )


@contextmanager
def taught(
    path: Path,
    recipe: Recipe,
    windows: Path,
    output: Path,
    answers: Path | None = None,
    teacher: Path | None = None,
    *,
    device: str,
) -> Iterator[AnswersFile | None]:
    """Give a finish the answers that it learns from, made here if there are none yet.

    Args:
        path: A step's manifest, or the directory of a model.
        recipe: It has a finish.
        windows: The file that is answered.
        output: What is made here lies beside it, and is gone in the end.
        answers: What ``fusegpt answers`` wrote; None: the teacher answers now.
        teacher: Its directory; None: the dense model.
        device: Where the teacher works.

    Yields:
        The answers; None for a finish without a teacher.

    Raises:
        ConfigError: The recipe names a teacher and there is none, or the other way round.
        DataError: The answers are not what the recipe's teacher says of these windows.
    """
    finish, name = recipe.finish, f"recipes.{recipe.name}.finish"
    if not isinstance(finish, Distill):
        if answers is not None or teacher is not None:
            raise ConfigError(f"{name}: learns from no teacher; leave out --answers and --teacher")
        yield None
        return
    how = (finish.top_k, finish.temperature)
    if answers is not None:
        if teacher is not None:
            raise ConfigError(f"{name}: --answers are a teacher's already; leave out --teacher")
        given = read_answers(answers, windows, *how)
        _check_taught(given.record, answers, path, recipe)
        yield given
        return
    if teacher is None and finish.teacher is not None:
        raise ConfigError(
            f"{name}.teacher: is {finish.teacher!r}; give its directory with --teacher, or what it"
            " says with --answers"
        )
    if teacher is not None and finish.teacher is None:
        raise ConfigError(
            f"{name}.teacher: is not given, so the dense model answers; leave out --teacher, or say"
            " in the recipe whose it is"
        )
    dense = dense_directory(path)
    if teacher is not None:  # its weights and answers may take hours
        directory_for(teacher, windows)
        check_vocabulary(*(int(text_config(one).vocab_size) for one in (dense, teacher)))
    folder = output.with_name(parallel.agreed(f"{output.name}.tmp-{uuid.uuid4().hex}"))
    try:
        if parallel.leads():
            model = load(teacher or dense, dtype=recipe.dtype, device=device)
            answer_windows(model, windows, folder, top_k=how[0], temperature=how[1])
            del model
        parallel.meet()
        given = read_answers(folder, windows, *how)
        yield given
        given.arrays.clear()  # deleted files take room on the disk as long as they are mapped
    finally:
        if parallel.leads():
            shutil.rmtree(folder, ignore_errors=True)
