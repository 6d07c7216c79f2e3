"""Whether everything in a results directory still is what was written and what its records say."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from fusegpt.artifacts import check_file, sha256
from fusegpt.data.windows import check_content
from fusegpt.errors import ArtifactError, FuseGPTError
from fusegpt.pruning.recipe import read_recipe
from fusegpt.results import layout as at
from fusegpt.results.base import Record, read
from fusegpt.results.digests import check_text, has_digest
from fusegpt.results.exports import Export
from fusegpt.results.files import FileRecord, Parent, Source
from fusegpt.results.kinship import misplaced, parents_of
from fusegpt.results.models import Evaluation, Stored, read_checkpoint
from fusegpt.results.point import Place
from fusegpt.results.records import AnswersRecord, Scores, read_manifest
from fusegpt.results.recovered import Training, Trials
from fusegpt.results.shards import PartialScores
from fusegpt.results.tables import Table
from fusegpt.results.unfinished import check_unfinished

__all__ = ["Verified", "verify"]

T = TypeVar("T")

READERS: dict[at.Pattern, Callable[[Path], Record]] = {
    at.source: functools.partial(read, model=Source),
    at.dense_scores: functools.partial(read, model=Scores),
    at.scores: functools.partial(read, model=Scores),
    at.scores_part: functools.partial(read, model=PartialScores),
    at.dense_scores_part: functools.partial(read, model=PartialScores),
    at.answers: functools.partial(read, model=AnswersRecord),
    at.manifest: read_manifest,
    at.checkpoint: read_checkpoint,
    at.sliced: read_checkpoint,
    at.export: functools.partial(read, model=Export),
    at.evaluation: functools.partial(read, model=Evaluation),
    at.export_evaluation: functools.partial(read, model=Evaluation),
    at.table_record: functools.partial(read, model=Table),
    at.training: functools.partial(read, model=Training),
    at.trials: functools.partial(read, model=Trials),
    at.stored: functools.partial(read, model=Stored),
}
"""Records; most say what else must be true."""

CHECKS: dict[at.Pattern, Callable[[Path], bool]] = {
    at.windows: check_content,
    at.generated: check_content,
    at.resume: check_unfinished,
    at.checkpoint_card: check_text,
    at.slice_card: check_text,
    at.card: check_text,
    at.figure: check_text,
    at.report: check_text,
    at.delta: lambda file: False,
    at.table: lambda file: False,
}
"""Other files, each with a function that compares it with a digest of its own, if it has one."""


@dataclass
class Verified:
    """What a results directory was found to be.

    Attributes:
        records: How many records were read.
        files: How many other files were looked at, those that records list included.
        problems: One line for each thing that is wrong.
        unknown: Files of which no digest is recorded, most often by an older version.
        leftovers: What killed jobs left half-written.
    """

    records: int = 0
    files: int = 0
    problems: list[str] = field(default_factory=list)
    unknown: list[Path] = field(default_factory=list)
    leftovers: list[Path] = field(default_factory=list)


def verify(results: Path) -> Verified:
    """Check every record, all that it lists and follows from, and every file that a person opens.

    Args:
        results: The folder ``results`` of a run.

    Raises:
        ArtifactError: There is no record at all.
    """
    return _Verifying(results).whole()


class _Verifying:
    """One look at everything, with what was found so far."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.windows = {
            sha256(found.path): found.path
            for kind in (at.windows, at.answers)
            for found in kind.found_in(results)
        }
        self.named: set[Path] = set()
        self.found = Verified(leftovers=list(at.leftovers(results)))

    def whole(self) -> Verified:
        """Look at all kinds of files, records first, since they vouch for others."""
        sealed = [one for kind, reader in READERS.items() for one in self._records(kind, reader)]
        if not self.found.records:
            raise ArtifactError(
                f"{self.results}: no results here; name the folder that holds runs/, models/"
            )
        for found in at.recipe.found_in(self.results):
            self.named.add(found.path)
            self._note(_recipe, found)
        self.found.files = len(self.named)
        for kind, check in CHECKS.items():
            for found in kind.found_in(self.results):
                self.found.files += found.path not in self.named
                sealed.append((found.path, self._note(check, found.path)))
        self.found.unknown = [
            path for path, own in sealed if own is False and path not in self.named
        ]
        return self.found

    def _records(
        self, kind: at.Pattern, reader: Callable[[Path], Record]
    ) -> Iterator[tuple[Path, bool | None]]:
        for found in kind.found_in(self.results):
            self.found.records += 1
            record = self._note(reader, found.path)
            if record is not None:
                self._about(found, record)
                yield found.path, self._note(has_digest, found.path)

    def _about(self, found: at.Found, record: Record) -> None:
        """What a record says of others."""
        file = found.path
        files: Mapping[str, FileRecord] = getattr(record, "files", {})
        for name, about in files.items():
            self.named.add(file.parent / name)
            self._note(about.check, file.parent / name)
        for parent in parents_of(record):
            self.named.add(parent.file(file.parent))
            self._note(Parent.checked, parent, file.parent, prefix=f"{file}: its parent ")
        self.found.problems += misplaced(found, record, self.results)
        inputs: Mapping[str, str] = getattr(record, "inputs", {})
        for role, digest in inputs.items():
            self._input(file, role, digest)

    def _input(self, file: Path, role: str, digest: str) -> None:
        first = file.parent.with_name(Place.step(1).name)
        beside = {"scores": file.with_name(at.SCORES), "first_scores": first / at.SCORES}
        if role in beside:
            said = {"sha256": digest}
            self.named.add(beside[role])
            self._note(check_file, beside[role], said, prefix=f"{file}: its {role} ")
        elif digest in self.windows:
            self.named.add(self.windows[digest])
        else:
            what = "answers" if role == "answers" else f"{role} windows"
            folder = "answers" if role == "answers" else "data"
            line = f"{file}: its {what}, {digest}, are nowhere in {folder}/"
            self.found.problems.append(line)

    def _note(self, check: Callable[..., T], *arguments: object, prefix: str = "") -> T | None:
        """Call a check, and note what it raises."""
        try:
            return check(*arguments)
        except FuseGPTError as error:
            self.found.problems.append(f"{prefix}{error}")
            return None


def _recipe(found: at.Found) -> None:
    """Compare a run's recipe with its folder, which is named by a hash of the settings."""
    made, folder = read_recipe(found.path).id, found.names["recipe"]
    if made != folder:
        raise ArtifactError(f"{found.path}: must be the recipe {folder}, is {made}; delete it")
