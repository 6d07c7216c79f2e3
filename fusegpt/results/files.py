"""What a run starts from (a model, windows, a recipe), and what records say of other files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from fusegpt.artifacts import check_file, check_size, sha256
from fusegpt.results import layout
from fusegpt.results.base import Record

__all__ = ["FileRecord", "Listing", "Parent", "Provenance", "RecipeText", "Source", "WindowsMeta"]


class Provenance(Record):
    """Who made a result: code, libraries, interpreter, platform, device."""

    fusegpt: str | None = None
    commit: str | None = None
    libraries: dict[str, str] = Field(default_factory=dict)
    python: str | None = None
    platform: str | None = None
    device: str = ""


class FileRecord(Record):
    """What a record says of a file beside it."""

    sha256: str
    bytes: int | None = None

    def check(self, path: Path, *, whole: bool = True) -> None:
        """Compare the file with what is said of it.

        Args:
            path: The file.
            whole: By checksum as well; if not, by size alone, which reads nothing.

        Raises:
            ArtifactError: It is missing, or its size or checksum differs.
        """
        said = {name: value for name, value in self.to_json().items() if value}
        (check_file if whole else check_size)(path, said)


class Listing(Record):
    """Any record of ours, read for the files beside it alone."""

    files: dict[str, FileRecord] = Field(default_factory=dict)


class Parent(Record):
    """The record of the model that a result follows from; its path is relative to the result."""

    path: str
    sha256: str

    @classmethod
    def of(cls, model: str | Path, directory: str | Path) -> Parent | None:
        """Return what a record in ``directory`` says of its parent.

        Args:
            model: A record of ours, or a directory that may hold one.
            directory: Where the child's record lies or will lie.

        Returns:
            None for a model that this project did not write.
        """
        file = layout.record_in(Path(model))
        if file is None:
            return None
        path = Path(os.path.relpath(file.resolve(), Path(directory).resolve())).as_posix()
        return cls(path=path, sha256=sha256(file))

    def file(self, directory: Path) -> Path:
        """Return the path, by name, as it was made: a symbolic link on the way changes nothing."""
        return Path(os.path.normpath(directory / self.path))

    def checked(self, directory: Path) -> Path:
        """Return the path after comparing the file with its checksum.

        Raises:
            ArtifactError: It is missing or another one.
        """
        place = self.file(directory)
        check_file(place, {"sha256": self.sha256})
        return place


class Source(Record):
    """A fetched model: ``source.json``, written last."""

    noun: ClassVar[str] = "the source.json of a fetched model"

    kind: str | None = None
    source: str | None = None
    revision: str | None = None
    licence: str | None = None
    base_model: str | None = None
    trust_remote_code: bool = False
    model_type: str | None = None
    num_blocks: int
    parameters: int | None = None
    files: dict[str, FileRecord] = Field(default_factory=dict)
    provenance: Provenance | None = None


class ExtraColumn(Record):
    """How one further column of windows with pictures is read: raw bytes of arrays."""

    dtype: str
    shapes: list[list[int]]


class WindowsMeta(Record):
    """What a file of windows says of itself, inside the parquet schema.

    Attributes:
        extras: For windows with pictures: name of a further column to how its tensors are read.
    """

    noun: ClassVar[str] = "a file of windows"

    corpus: str | None = None
    split: str | None = None
    sequences: int | None = None
    length: int | None = None
    seed: int | None = None
    tokenizer_sha256: str | None = None
    extras: dict[str, ExtraColumn] | None = None
    seconds: float | None = None
    memory_gib: float | None = None
    provenance: Provenance | None = None


class NamedMethod(Record):
    """A section of a recipe: which method it names."""

    metric: str | None = None
    method: str | None = None


class RecipeText(Record):
    """A recipe with every setting: ``recipe.json``; what the settings mean is their methods'."""

    noun: ClassVar[str] = "a recipe"

    name: str
    width: NamedMethod | None = None
    importance: NamedMethod | None = None
    recovery: NamedMethod | None = None
    finish: NamedMethod | None = None
    dtype: str
    seed: int

    @property
    def methods(self) -> list[str]:
        """The methods that it names."""
        sections = [self.width, self.importance, self.recovery, self.finish]
        named = [one.metric or one.method for one in sections if one is not None]
        return [name for name in named if name]
