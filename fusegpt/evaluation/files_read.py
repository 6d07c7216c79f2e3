"""Which local files a result follows from, besides the model: whoever keeps results asks."""

from __future__ import annotations

import glob
import importlib.metadata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fusegpt.errors import FuseGPTError
from fusegpt.evaluation.settings import EvaluationSettings
from fusegpt.yaml_files import read_yaml

__all__ = ["files_read", "packages_read", "task_files_read"]


def files_read(settings: EvaluationSettings, entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return every file that is there and decides a result, each once, sorted.

    Args:
        settings: Those of the evaluation.
        entries: What it reads of the configuration: ``corpora`` or ``tasks``.
    """
    splits = [file for entry in entries.values() for file in entry.get("splits", {}).values()]
    corpus = settings.corpus_read() or ("", "")  # a file is a corpus, too
    named = [*splits, corpus[0], *task_files_read(settings, entries)]
    return sorted({file for name in map(str, named) for file in _there(name)})


def task_files_read(
    settings: EvaluationSettings, entries: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Return the task files that are named by their paths, and the data that they name.

    Args:
        settings: Those of the evaluation.
        entries: The configuration's ``tasks``; a task's entry stands in for the data of its file.
    """
    found: list[str] = []
    for name in settings.tasks_read():
        if name.endswith(".yaml") and Path(name).is_file():
            found.append(name)
            if Path(name).stem not in entries:
                found += _data_of(Path(name))
    return list(dict.fromkeys(found))


def packages_read(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, str | None]:
    """Return the version of each package that an entry names without one; None: not installed."""
    named = {str(entry["package"]) for entry in entries.values() if entry.get("package")}
    return {package: _version(package) for package in sorted(named) if "==" not in package}


def _data_of(task: Path) -> Iterable[str]:
    """The files that a task file names; those of a data set on the hub lie under its revision."""
    try:
        content = read_yaml(task)
    except FuseGPTError:  # whoever measures says what is wrong with it
        return []
    splits = content.get("splits") if isinstance(content, dict) else None
    if not isinstance(splits, dict) or content.get("hub"):
        return []
    return map(str, splits.values())


def _there(name: str) -> list[str]:
    """The file of a name, or all that ``*`` in it may stand for."""
    if "*" in name:
        pattern = "*".join(map(glob.escape, name.split("*")))
        return [file for file in glob.glob(pattern) if Path(file).is_file()]
    return [name] if Path(name).is_file() else []


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
