"""Which of lm-eval's tasks and groups lie below a name, without importing it twice."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from fusegpt.errors import ConfigError
from fusegpt.evaluation.task_names import remembered

__all__ = ["names_below"]


@functools.cache
def names_below(name: str) -> frozenset[str]:
    """Return a name of lm-eval, and of a group or a tag all tasks and groups below it.

    Where lm-eval is not installed, or has no such name, it is the name alone: whoever measures
    says what is wrong.
    """

    def below(folder: Path) -> set[str]:
        from fusegpt.evaluation.task_files import leaves

        return {name}.union(*leaves(name).values())

    try:
        found = remembered(below, f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}")
    except ConfigError:
        found = None
    return frozenset({name}) if found is None else found
