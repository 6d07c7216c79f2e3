"""Names of lm-eval's tasks, groups and tags, read from its files; it is not imported."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import re
from pathlib import Path

from fusegpt.artifacts import read_json, write_json
from fusegpt.errors import FuseGPTError

__all__ = ["cache_of", "known_tasks"]

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

    A name that is not among them is none for sure. They are kept in the cache folder of the user,
    since there are 14,000 files.
    """
    folder, kept = _folder(), cache_of()
    if folder is None or kept is None:
        return None
    try:
        return frozenset(read_json(kept)["names"])
    except (FuseGPTError, KeyError, TypeError):
        names = sorted(_names(folder))
    with contextlib.suppress(FuseGPTError, OSError):  # without it, it takes a second each time
        write_json(kept, {"names": names})
    return frozenset(names)


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


def cache_of(more: str = "") -> Path | None:
    """Return where what was read of lm-eval's files is kept; None: it is not installed.

    Args:
        more: End of the file's name, for what is kept apart.
    """
    folder = _folder()
    if folder is None:
        return None
    name = f"{importlib.metadata.version('lm_eval')}-{folder.stat().st_mtime_ns}{more}"
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "fusegpt" / f"lm_eval-{name}.json"


def _folder() -> Path | None:
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "tasks"
