"""The record of a table of results."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from fusegpt.results.base import Record
from fusegpt.results.contents import Contents, parse_contents
from fusegpt.results.files import FileRecord, Parent, Provenance

__all__ = ["Table"]


class Table(Record):
    """What lies beside a table: its contents as they were asked for, and what it was read from.

    Attributes:
        missing: Results that a table of what is there left out, each with the reason.
    """

    noun: ClassVar[str] = "the record of a table"

    kind: Literal["table"] = "table"
    experiment: dict[str, Any]
    missing: dict[str, str] = Field(default_factory=dict)
    files: dict[str, FileRecord] = Field(default_factory=dict)
    parents: list[Parent] = Field(default_factory=list)
    seconds: float | None = None
    memory_gib: float | None = None
    provenance: Provenance | None = None

    @property
    def contents(self) -> Contents:
        """Models, recipes, sparsities and evaluations of the table."""
        return parse_contents(self.experiment)

    @property
    def gap(self) -> str:
        """What the table lacks, in words; empty: nothing."""
        whole = len(self.parents) + len(self.missing)
        return f"{len(self.missing)} of {whole} results are missing" if self.missing else ""
