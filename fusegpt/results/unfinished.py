"""A recovery that goes on: the rows that its resume file tells of, without its tensors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from fusegpt.results.records import TrainingRow

__all__ = ["FINGERPRINT", "ROWS", "STEPS", "Unfinished", "read_unfinished"]

FINGERPRINT, ROWS, STEPS = "fingerprint", "rows", "steps"
"""Keys of the resume file's metadata: what it belongs to, the rows as JSON, how many there will be.

Files written before version 0.2 do not say how many there will be.
"""


@dataclass(frozen=True)
class Unfinished:
    """How far a recovery had come when its state was last saved.

    Attributes:
        rows: One per optimiser step.
        steps: Optimiser steps in all; None: not known.
    """

    rows: tuple[TrainingRow, ...] = ()
    steps: int | None = None


def read_unfinished(file: Path) -> Unfinished:
    """Read the metadata of a resume file; nothing where there is none, or none that can be read.

    Whoever looks on cannot know that a file stays: the recovery deletes it when it ends.
    """
    try:
        with safe_open(file, framework="numpy") as opened:
            about = opened.metadata() or {}
        rows = tuple(TrainingRow.model_validate(row) for row in json.loads(about.get(ROWS, "[]")))
        return Unfinished(rows, int(about[STEPS]) if STEPS in about else None)
    except (OSError, SafetensorError, TypeError, ValueError, ValidationError):
        return Unfinished()
