"""Which of lm-eval's tasks and groups lie below a name, without importing it twice."""

from __future__ import annotations

import contextlib
import functools
import hashlib

from fusegpt.artifacts import read_json, write_json
from fusegpt.errors import ConfigError, FuseGPTError
from fusegpt.evaluation.task_names import cache_of

__all__ = ["names_below"]


@functools.cache
def names_below(name: str) -> frozenset[str]:
    """Return a name of lm-eval, and of a group or a tag all tasks and groups below it.

    They are kept in the cache folder of the user. Where lm-eval is not installed, or has no such
    name, it is the name alone: whoever measures says what is wrong.
    """
    kept = cache_of(f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}")
    if kept is None:
        return frozenset({name})
    try:
        return frozenset(read_json(kept)["below"])
    except (FuseGPTError, KeyError, TypeError):
        from fusegpt.evaluation.task_files import leaves

        try:
            names = sorted({name}.union(*leaves(name).values()))
        except ConfigError:
            return frozenset({name})
    with contextlib.suppress(FuseGPTError, OSError):
        write_json(kept, {"below": names})
    return frozenset(names)
