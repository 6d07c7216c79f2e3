"""Which windows of text the recipes read, each named by how it is drawn."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fusegpt.data import SPLITS
from fusegpt.errors import ConfigError
from fusegpt.pruning.definition import Recipe, Role
from fusegpt.registry import lookup
from fusegpt.workflow.schema import Corpus

__all__ = ["Windows", "all_windows", "check_split", "corpus_entry", "windows_of"]

SPLIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*", re.ASCII)


@dataclass(frozen=True)
class Windows:
    """Windows of token ids to sample, equal for every recipe that asks for the same.

    Attributes:
        id: ``<corpus>-<split>-<8 hex>``, part of the file's path.
        corpora: The configuration's entry of the corpus, ``{}`` for a built-in one as it is.
        rows: Rows of the corpus to draw, in place of ``sequences`` windows.
    """

    id: str
    corpus: str
    split: str
    sequences: int
    length: int
    seed: int
    corpora: Mapping[str, Any]
    rows: int | None = None


def all_windows(recipes: Mapping[str, Recipe], corpora: Mapping[str, Corpus]) -> dict[str, Windows]:
    """Every recipe's windows, by id.

    Raises:
        ConfigError: A recipe reads a corpus or a split that nobody defined.
    """
    found = {}
    for recipe in recipes.values():
        for role in recipe.roles:
            spec = recipe.windows(role)
            check_split(spec.corpus, spec.split, f"recipes.{recipe.name}.{role}", corpora)
            windows = windows_of(recipe, role, corpora)
            found[windows.id] = windows
    return found


def windows_of(
    recipe: Recipe,
    role: Role,
    corpora: Mapping[str, Corpus],
) -> Windows:
    """The windows that a recipe reads in one role."""
    spec = recipe.windows(role)
    entry = corpus_entry(spec.corpus, spec.split, corpora)
    assert spec.seed is not None
    values = (spec.corpus, spec.split, spec.sequences, spec.length, spec.seed)
    drawn = [] if spec.rows is None else [{"rows": spec.rows}]
    content = json.dumps([*values, entry, *drawn], sort_keys=True)
    short = hashlib.sha256(content.encode()).hexdigest()[:8]
    return Windows(f"{spec.corpus}-{spec.split}-{short}", *values, entry, spec.rows)


def corpus_entry(name: str, split: str, corpora: Mapping[str, Corpus]) -> dict[str, Any]:
    """``{name: entry}`` with the one split that is read; empty for a built-in corpus as it is."""
    entry = corpora[name].model_dump(exclude_none=True)
    if "splits" in entry:
        entry["splits"] = {split: entry["splits"][split]}
    return {name: entry} if entry else {}


def check_split(corpus: str, split: str, where: str, corpora: Mapping[str, Corpus]) -> None:
    """Refuse a corpus or a split that nobody defined; the message starts with ``where``."""
    try:
        splits = lookup(corpora, corpus, "corpus").splits
        if splits is not None:
            lookup(splits, split, "split")
        elif corpus in SPLITS:
            lookup(dict.fromkeys(SPLITS[corpus]), split, "split")
        elif not SPLIT.fullmatch(split):
            raise ConfigError(f"split must be letters, digits, _ and -, got {split!r:.60}")
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
