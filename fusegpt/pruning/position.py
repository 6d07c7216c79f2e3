"""Finished steps of a run in one process, kept beside its output until the checkpoint is whole."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from fusegpt.artifacts import file_record
from fusegpt.data.directories import file_marks
from fusegpt.errors import ArtifactError, Stopped
from fusegpt.models.checkpoints.adapters import adapter_tensors
from fusegpt.models.checkpoints.chain import catch_up, rest_on
from fusegpt.models.checkpoints.save import write_delta
from fusegpt.models.model import Model
from fusegpt.pruning.recipe import Recipe
from fusegpt.pruning.rerank import forget
from fusegpt.pruning.trajectory import fingerprint
from fusegpt.recovery.report import RecoveryReport
from fusegpt.recovery.resume import Checkpoint
from fusegpt.results import layout
from fusegpt.results.base import Record, read, write
from fusegpt.results.files import FileRecord
from fusegpt.results.records import Removal, Scores
from fusegpt.results.recovered import TrainingRow

__all__ = ["Position", "PrunedStep"]

logger = logging.getLogger(__name__)


class PrunedStep(Removal):
    """A step of a run in one process: what it did, with its scores and training rows."""

    scores: Scores
    training: list[TrainingRow]


class FinishedSteps(Record):
    """What a stopped run had finished, and the files with the tensors that each step changed."""

    noun: ClassVar[str] = "the finished steps of a stopped run"

    fingerprint: str
    steps: list[PrunedStep]
    files: dict[str, FileRecord]


class Position:
    """How far a run in one process is, on disk.

    Args:
        output: The run's; a directory beside it keeps the steps.
        recipe: The run's.
        model: Directory of the model that the run begins with.
        files: Windows, by role.
        count: Units that go; only a ``contiguous`` selection depends on it.
        compiled: Whether blocks in training are compiled: a step goes on as it was begun.
    """

    def __init__(
        self,
        output: Path,
        recipe: Recipe,
        model: Path,
        files: Mapping[str, Path],
        count: int,
        *,
        compiled: bool = False,
    ) -> None:
        self.directory = layout.unfinished_run(output)
        at_once = count if recipe.selection == "contiguous" else 1
        known = [
            fingerprint(recipe, list(files.values())),
            sorted(files),
            at_once,
            file_marks(model),
        ]
        self.fingerprint = hashlib.sha256(json.dumps(known).encode()).hexdigest()
        self.recipe, self.compiled = recipe, compiled
        self.steps: list[PrunedStep] = []
        self.files: dict[str, FileRecord] = {}

    @property
    def _record(self) -> Path:
        return self.directory / layout.STEPS

    def resume(self, model: Model, count: int) -> list[PrunedStep]:
        """Take over what was finished: the steps, and their changes to the model.

        Args:
            model: As the run begins; changed in place.
            count: Units that are to go; further steps are left out.

        Returns:
            The steps; none if nothing was kept, or if what was kept belongs to another model,
            recipe or windows.
        """
        if not self._record.is_file():
            return []
        try:
            kept = read(self._record, FinishedSteps)
            if kept.fingerprint != self.fingerprint:
                logger.info("ignoring %s: it belongs to other settings or inputs", self.directory)
                return []
            for name, record in kept.files.items():
                record.check(self.directory / name)
        except ArtifactError as error:
            logger.info("beginning anew: %s", error)
            return []
        for step, (name, record) in zip(kept.steps, kept.files.items(), strict=True):
            if sum(len(done.gone) for done in [*self.steps, step]) > count:
                break
            self.steps.append(step)
            self.files[name] = record
        gone = [unit for step in self.steps for unit in step.gone]
        catch_up(model, gone, [self.directory / name for name in self.files])
        if self.steps:
            logger.info("%d finished steps taken over from %s", len(self.steps), self.directory)
        return list(self.steps)

    def checkpoint(self, stage: str = "step") -> Checkpoint:
        """Return where what goes on, a step or the finish, keeps its state."""
        known = f"{self.fingerprint} {len(self.steps)} {stage}"
        known += " compiled" if self.compiled and stage == "step" else ""
        return Checkpoint(self.directory / layout.RESUME, known)

    def add(self, model: Model, step: PrunedStep, report: RecoveryReport) -> None:
        """Keep a finished step; its own state is no longer needed."""
        name = f"delta-{len(self.steps) + 1:03d}.safetensors"
        unfolded = [name for name in report.changed if name in model.fused]
        plain = [name for name in report.changed if name not in model.fused]
        self.directory.mkdir(parents=True, exist_ok=True)
        place = self.directory / name
        extra = adapter_tensors(model, unfolded)
        write_delta(model, place, plain, extra, self.recipe.checkpoint_dtype)
        rest_on(model, [place])
        self.steps.append(step)
        self.files[name] = FileRecord.model_validate(file_record(place))
        values = {"fingerprint": self.fingerprint, "steps": self.steps, "files": self.files}
        write(self._record, FinishedSteps.model_validate(values))
        self.checkpoint().remove()
        forget(self.checkpoint())

    def told(self, stopped: Stopped) -> Stopped:
        """Return the message of a stop, which says what is kept, if it does not say so already."""
        if not self.steps or stopped.saved:
            return stopped
        saved = f"{len(self.steps)} finished steps are in {self.directory}; run again to go on"
        return Stopped(stopped.number, saved)

    def remove(self) -> None:
        """Delete what was kept; the run has ended well. Files of others stay."""
        for pattern in (layout.STEPS, layout.RESUME, layout.TRIALS, "delta-*.safetensors"):
            for file in self.directory.glob(pattern):
                file.unlink()
        if self.directory.is_dir() and not any(self.directory.iterdir()):
            self.directory.rmdir()
