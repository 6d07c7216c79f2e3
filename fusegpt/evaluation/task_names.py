"""Names of lm-eval's tasks, groups and tags, read from its files; it is not imported."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from fusegpt.artifacts import read_json, write_json
from fusegpt.errors import FuseGPTError

__all__ = ["known_tasks", "remembered"]

NAMED = re.compile(
    r"""^[ \t]*(?:-[ \t]+)?["']?(?:task|group|tag)["']?[ \t]*:[ \t]*["']?([^\s"'#\[\]{},]+)"""
    r"""|^[ \t]*-[ \t]+["']?([^\s"'#:\[\]{},]+)["']?[ \t]*(?:\#.*)?$""",
    re.MULTILINE,
)
LISTED = re.compile(r"""["']?\b(?:task|group|tag)\b["']?\s*:\s*\[([^\]]*)\]""")
SKIPPED = (".py", ".pyc", ".md", ".json", ".jsonl", ".csv", ".txt", ".sh", ".ipynb", ".png")
"""Files that hold no tasks; settings that others include may have any other suffix, or none."""


@functools.cache
def known_tasks() -> frozenset[str] | None:
    """Return every name that may be one of lm-eval's; None where it is not installed.

    A name that is not among them is none for sure. They are remembered, since there are 14,000
    files, which take a second.
    """
    return remembered(_names)


def _names(folder: Path) -> set[str]:
    found: set[str] = set()
    for file in folder.rglob("*"):
        if file.suffix in SKIPPED or not file.is_file():
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        for named, listed in NAMED.findall(text):
            found.add(named or listed)
        for several in LISTED.findall(text):
            found |= {name.strip(" \n\t\"'") for name in several.split(",")}
    return found


def remembered(find: Callable[[Path], Iterable[str]], more: str = "") -> frozenset[str] | None:
    """Return names that were found in lm-eval's files; None where it is not installed.

    They are kept in the cache folder of the user, for as long as lm-eval stays the same.

    Args:
        find: Finds them below the folder of its tasks; called where none are kept.
        more: End of the kept file's name, for what is kept apart.
    """
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "tasks"
    name = f"{importlib.metadata.version('lm_eval')}-{folder.stat().st_mtime_ns}{more}"
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    kept = Path(home) / "fusegpt" / f"lm_eval-{name}.json"
    try:
        return frozenset(read_json(kept)["names"])
    except (FuseGPTError, KeyError, TypeError):
        names = sorted(find(folder))
    with contextlib.suppress(FuseGPTError, OSError):
        write_json(kept, {"names": names})
    return frozenset(names)
