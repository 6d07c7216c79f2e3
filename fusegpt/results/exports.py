"""The record of a model that was exported, and what is read of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from fusegpt.errors import ArtifactError
from fusegpt.results import layout
from fusegpt.results.base import Record, UnitField, read
from fusegpt.results.files import FileRecord, Parent, Provenance

__all__ = ["Export", "export_in", "weight_bytes"]


class Export(Record):
    """A model as another program runs it: ``export.json``, written last.

    Attributes:
        export: What was asked for, ``gguf:q8_0``.
        num_blocks: Blocks of the dense model.
        kept: Dense indices of the blocks that remain.
        removed: Every unit removed, in order.
        checks: What was seen when it was loaded again.
        tools: Packages that wrote it, with their versions.
        parent: The checkpoint, or the fetched model, that it was made from.
    """

    noun: ClassVar[str] = "the record of an export"

    kind: Literal["export"]
    export: str
    num_blocks: int
    kept: list[int]
    removed: list[UnitField] = Field(default_factory=list)
    parameters: int | None = None
    base_model: str | None = None
    checks: dict[str, Any] = Field(default_factory=dict)
    tools: dict[str, str] = Field(default_factory=dict)
    seconds: float | None = None
    memory_gib: float | None = None
    stage_version: int | None = None
    parent: Parent | None = None
    files: dict[str, FileRecord] = Field(default_factory=dict)
    provenance: Provenance | None = None

    @property
    def gguf(self) -> str | None:
        """The name of its GGUF file; None: it is a directory that transformers loads."""
        return next((name for name in self.files if name.endswith(".gguf")), None)

    def origin(self, directory: Path) -> Path:
        """Return where the config and the tokenizer of a GGUF file lie.

        Args:
            directory: Where the export lies.

        Raises:
            ArtifactError: Nobody knows, or what it was made from is not there as it was.
        """
        if self.parent is None:
            raise ArtifactError(
                f"{directory}: must come from a checkpoint or a fetched model of fusegpt to be"
                " measured, has no parent; fetch the model and export that"
            )
        return self.parent.checked(directory).parent


def export_in(path: Path) -> Export | None:
    """Return the record of the export that a directory holds; None: it holds none."""
    file = path / layout.EXPORT
    return read(file, Export) if file.is_file() else None


def weight_bytes(files: dict[str, FileRecord]) -> int | None:
    """Return how many bytes the files of weights take; None: a record does not say."""
    sizes = [
        about.bytes for name, about in files.items() if name.endswith((".safetensors", ".gguf"))
    ]
    known = [size for size in sizes if size is not None]
    return sum(known) if known and len(known) == len(sizes) else None
