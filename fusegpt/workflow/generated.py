"""Texts that the dense models of a plan write themselves, each named by how it is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusegpt.data.chats import format_of
from fusegpt.data.generated import Generated
from fusegpt.errors import ConfigError
from fusegpt.results import layout as at
from fusegpt.workflow.schema import Corpus

__all__ = ["SPLIT", "Written", "all_written", "check_generated", "located", "written"]

SPLIT = "train"
"""The only split of what a model writes."""


@dataclass(frozen=True)
class Written:
    """Texts of each model's own, equal for all windows that are cut from them.

    Attributes:
        id: ``<corpus>-<8 hex>``, part of the file's path.
        settings: How they are written.
        corpora: The configuration's entry of the corpus that they start from.
    """

    id: str
    settings: Generated
    corpora: Mapping[str, Any]


def written(name: str, corpora: Mapping[str, Corpus]) -> Written:
    """Return the texts of a generated corpus."""
    settings = corpora[name].generated
    assert settings is not None, name
    entry: dict[str, Any] = {}
    if settings.corpus is not None:
        about = corpora[settings.corpus].model_dump(exclude_none=True)
        if "splits" in about:
            about["splits"] = {settings.split: about["splits"][settings.split]}
        entry = {settings.corpus: about} if about else {}
    content = json.dumps([settings.model_dump(), entry], sort_keys=True)
    short = hashlib.sha256(content.encode()).hexdigest()[:8]
    return Written(f"{name}-{short}", settings, entry)


def all_written(names: Iterable[str], corpora: Mapping[str, Corpus]) -> dict[str, Written]:
    """Return the texts of those corpora that are generated, by id."""
    found = [written(name, corpora) for name in names if corpora[name].generated is not None]
    return {one.id: one for one in found}


def located(entries: Mapping[str, Mapping[str, Any]], model: str) -> dict[str, Any]:
    """Return entries of corpora with the file of a model in place of what it writes."""
    return {
        name: (
            {"splits": {SPLIT: at.generated(model=model, generated=entry["generated"])}}
            if "generated" in entry
            else entry
        )
        for name, entry in entries.items()
    }


def check_generated(name: str, corpora: Mapping[str, Corpus], where: str) -> None:
    """Refuse a corpus to start from that is generated itself, or holds no questions.

    Args:
        name: A generated corpus; the split it names is there.
        corpora: All corpora.
        where: Begins messages.

    Raises:
        ConfigError: One is there.
    """
    settings = corpora[name].generated
    assert settings is not None and settings.corpus is not None, name
    start = corpora[settings.corpus]
    if start.generated is not None:
        raise ConfigError(
            f"{where}.corpus: must be a corpus that is there, got {settings.corpus!r}"
        )
    if settings.start != "prompts":
        return
    file = Path((start.splits or {}).get(settings.split, ""))
    if not start.splits or (file.is_file() and format_of(file) is None):
        raise ConfigError(
            f"{where}.corpus: must be a file of conversations, got {settings.corpus!r}; without"
            " them start must be 'random' or 'prefixes'"
        )
