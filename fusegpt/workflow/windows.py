"""Which windows of text the recipes read, each named by how it is drawn."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusegpt.data import SPLITS
from fusegpt.data.chats import holds_answers
from fusegpt.errors import ConfigError
from fusegpt.exports.targets import parse_target
from fusegpt.pruning.definition import Recipe, Role
from fusegpt.pruning.sections import WindowsSpec
from fusegpt.registry import lookup
from fusegpt.workflow.asked_exports import Gptq, RoundedOn
from fusegpt.workflow.generated import SPLIT, written
from fusegpt.workflow.schema import Corpus, Experiment

__all__ = [
    "Windows",
    "all_windows",
    "check_split",
    "corpus_entry",
    "exported_windows",
    "rounded_on",
    "windows_of",
    "windows_of_export",
]

ADDED = ("cut", "bos", "predict")
"""Settings of windows that are part of their id only where they are not at their default."""
SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*", re.ASCII)


@dataclass(frozen=True)
class Windows:
    """Windows of token ids to sample, equal for every recipe that asks for the same.

    Attributes:
        id: ``<corpus>-<split>-<8 hex>``, part of the file's path.
        corpus: Name of the corpus, or of several with their shares as JSON.
        corpora: The configuration's entry of the corpus, ``{}`` for a built-in one as it is.
        rows: Rows of the corpus to draw, in place of ``sequences`` windows.
        more: Further settings of ``sample`` that are not at their default.
    """

    id: str
    corpus: str
    split: str
    sequences: int
    length: int
    seed: int
    corpora: Mapping[str, Any]
    rows: int | None = None
    more: Mapping[str, str] = field(default_factory=dict)


def all_windows(recipes: Mapping[str, Recipe], corpora: Mapping[str, Corpus]) -> dict[str, Windows]:
    """Every recipe's windows, by id.

    Raises:
        ConfigError: A recipe reads a corpus or a split that nobody defined.
    """
    found = {}
    for recipe in recipes.values():
        for role in recipe.roles:
            spec = recipe.windows(role)
            where = f"recipes.{recipe.name}.{role}"
            for corpus, split in spec.parts:
                check_split(corpus, split, where, corpora)
            if spec.predict == "answers":
                _check_answers(spec.parts, corpora, where)
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
    assert spec.seed is not None
    return _drawn(spec, spec.seed, corpora)


def exported_windows(
    experiments: Mapping[str, Experiment], corpora: Mapping[str, Corpus]
) -> dict[str, Windows]:
    """The windows that exports of experiments are rounded by, by id.

    Raises:
        ConfigError: One reads a corpus or a split that nobody defined.
    """
    found = {}
    for name, experiment in experiments.items():
        for spec in filter(None, map(rounded_on, experiment.exports)):
            for part in spec.parts:
                check_split(*part, f"experiments.{name}.exports.gptq4", corpora)
            windows = windows_of_export(spec, corpora)
            found[windows.id] = windows
    return found


def rounded_on(export: str | Gptq) -> WindowsSpec | None:
    """The windows that an export reads; None: it reads none."""
    if isinstance(export, Gptq):
        return export.gptq4
    return RoundedOn() if parse_target(export).is_calibrated else None


def windows_of_export(spec: WindowsSpec, corpora: Mapping[str, Corpus]) -> Windows:
    """The windows that weights are rounded by; the seed is 0 where an experiment says none."""
    return _drawn(spec, spec.seed or 0, corpora)


def _drawn(spec: WindowsSpec, seed: int, corpora: Mapping[str, Corpus]) -> Windows:
    entry = {k: v for part in spec.parts for k, v in _entry_of(part, spec.parts, corpora).items()}
    written = spec.model_dump()
    corpus = spec.corpus if isinstance(spec.corpus, str) else json.dumps(written["corpus"])
    values = (corpus, spec.split, spec.sequences, spec.length, seed)
    drawn = [] if spec.rows is None else [{"rows": spec.rows}]
    more = {key: str(written[key]) for key in ADDED if key in written}
    content = json.dumps([*values, entry, *drawn, *([more] if more else [])], sort_keys=True)
    short = hashlib.sha256(content.encode()).hexdigest()[:8]
    name = spec.corpus if isinstance(spec.corpus, str) else "mixture"
    return Windows(f"{name}-{spec.split}-{short}", *values, entry, spec.rows, more)


def _entry_of(
    part: tuple[str, str], parts: Sequence[tuple[str, str]], corpora: Mapping[str, Corpus]
) -> dict[str, Any]:
    """The entry of one corpus with all of its splits that are read."""
    found = corpus_entry(*part, corpora)
    for entry in found.values():
        if "splits" in entry:
            others = [split for name, split in parts if name == part[0]]
            files = corpora[part[0]].splits or {}
            entry["splits"] = {split: files[split] for split in others}
    return found


def corpus_entry(name: str, split: str, corpora: Mapping[str, Corpus]) -> dict[str, Any]:
    """``{name: entry}`` with the one split that is read; empty for a built-in corpus as it is."""
    if corpora[name].generated is not None:
        return {name: {"generated": written(name, corpora).id}}
    entry = corpora[name].model_dump(exclude_none=True)
    if "splits" in entry:
        entry["splits"] = {split: entry["splits"][split]}
    return {name: entry} if entry else {}


def check_split(corpus: str, split: str, where: str, corpora: Mapping[str, Corpus]) -> None:
    """Refuse a corpus or a split that nobody defined; the message starts with ``where``."""
    try:
        entry = lookup(corpora, corpus, "corpus")
        splits = {SPLIT: ""} if entry.generated else entry.splits
        if splits is not None:
            lookup(splits, split, "split")
        elif corpus in SPLITS:
            lookup(dict.fromkeys(SPLITS[corpus]), split, "split")
        elif not SPLIT_NAME.fullmatch(split):
            raise ConfigError(f"split must be letters, digits, _ and -, got {split!r:.60}")
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _check_answers(
    parts: Sequence[tuple[str, str]], corpora: Mapping[str, Corpus], where: str
) -> None:
    """Refuse files none of which holds answers; what is not there yet is read later."""
    texts = [corpora[name].generated for name, _ in parts]
    if any(text is not None and text.start == "prompts" for text in texts):
        return
    files = [(corpora[name].splits or {}).get(split) for name, split in parts]
    if any(file is not None and not Path(file).is_file() for file in files):
        return
    if any(file is not None and holds_answers(Path(file)) for file in files):
        return
    raise ConfigError(
        f"{where}.predict: 'answers' needs a corpus of conversations, got"
        f" {', '.join(name for name, _ in parts)}"
    )
