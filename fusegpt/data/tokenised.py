"""A corpus as token ids, one document at a time or as one stream: texts, conversations, ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from fusegpt.data.chats import format_of, read_conversations
from fusegpt.data.corpora import Text, by_rank, draw_rows, file_of, load_text
from fusegpt.data.files import columns_of, read_rows
from fusegpt.data.templates import render
from fusegpt.data.tokens import encode, fingerprint
from fusegpt.data.windows import COLUMN, check_content, read_meta
from fusegpt.errors import ArtifactError, DataError

__all__ = ["Source", "Tokens", "source_of"]


class Tokens(NamedTuple):
    """Token ids in a row.

    Attributes:
        ids: ``[tokens]`` int32.
        answers: ``[tokens]`` bool: tokens whose prediction counts; None: all.
    """

    ids: np.ndarray
    answers: np.ndarray | None = None


class Source(Protocol):
    """A corpus for one tokenizer."""

    @property
    def count(self) -> int:
        """Number of documents."""

    def document(self, number: int) -> Tokens:
        """Return one document."""

    def stream(self) -> Tokens:
        """Return all documents behind each other."""

    def drawn(self, count: int, seed: int) -> Self:
        """Return some documents, drawn without replacement, in the order drawn."""

    def notes(self, tokens: int) -> dict[str, Any]:
        """Return what a record says of windows that ``tokens`` tokens were read for."""


def source_of(
    tokenizer: Any,
    corpus: str,
    split: str,
    corpora: Mapping[str, Any],
    *,
    bos: bool,
    answers: bool,
) -> Source:
    """Return a corpus for a tokenizer.

    Args:
        tokenizer: The model's.
        corpus: A corpus by name, or a file.
        split: Split of the corpus.
        corpora: The configuration's ``corpora``.
        bos: Put BOS before the text, or before each document on its own, if the tokenizer would.
            A chat template writes what it writes.
        answers: Tell the tokens of the assistant's answers.

    Raises:
        DataError: No such corpus or split; or a row of a file cannot be read.
    """
    entry = corpora.get(corpus) or {}
    file = file_of(corpus, split, corpora)
    if file is not None and file.is_file():
        about = (corpus if entry else file.name, split, file, entry.get("documents"))
        if format_of(file) is not None:
            return _conversations(tokenizer, *about, answers=answers)
        if COLUMN in columns_of(file):
            return _ids(tokenizer, *about, answers=answers)
    return _Texts(tokenizer, load_text(corpus, split, corpora), bos)


@dataclass(frozen=True)
class _Texts:
    """Texts, tokenised at once where they are joined."""

    tokenizer: Any
    text: Text
    bos: bool

    @property
    def count(self) -> int:
        return len(self.text.rows)

    def document(self, number: int) -> Tokens:
        return Tokens(encode(self.tokenizer, self.text.rows[number], bos=self.bos))

    def stream(self) -> Tokens:
        return Tokens(encode(self.tokenizer, self.text.text, bos=self.bos))

    def drawn(self, count: int, seed: int) -> _Texts:
        return dataclasses.replace(self, text=draw_rows(self.text, count, seed))

    def notes(self, tokens: int) -> dict[str, Any]:
        return self.text.notes(tokens)


@dataclass(frozen=True)
class _Rows:
    """Documents that are token ids already, from a file."""

    documents: Sequence[Tokens]
    about: Mapping[str, Any]

    @property
    def count(self) -> int:
        return len(self.documents)

    def document(self, number: int) -> Tokens:
        return self.documents[number]

    def stream(self) -> Tokens:
        answers = None
        if any(one.answers is not None for one in self.documents):
            answers = np.concatenate([_counting(one) for one in self.documents])
        return Tokens(np.concatenate([one.ids for one in self.documents]), answers)

    def drawn(self, count: int, seed: int) -> _Rows:
        if count > self.count:
            raise DataError(
                f"corpus {self.about['corpus']!r}, split {self.about['split']!r}: {count} rows"
                f" asked, {self.count} there"
            )
        order = by_rank(self.count, seed)[:count]
        return dataclasses.replace(self, documents=[self.documents[number] for number in order])

    def notes(self, tokens: int) -> dict[str, Any]:
        return {**self.about, "documents": self.count, "tokens": tokens}


def _conversations(
    tokenizer: Any, name: str, split: str, file: Path, limit: int | None, *, answers: bool
) -> _Rows:
    """Conversations through the tokenizer's chat template."""
    read = read_conversations(file, limit)
    found = [Tokens(*render(tokenizer, chat, where, answers=answers)) for where, chat in read]
    return _Rows(found, _about(name, split, file, f"conversations: {format_of(file)}"))


def _ids(
    tokenizer: Any, name: str, split: str, file: Path, limit: int | None, *, answers: bool
) -> _Rows:
    """Token ids of something else, or of ``fusegpt generate`` or ``fusegpt sample``."""
    if file.suffix == ".parquet":
        digest = read_meta(file).tokenizer_sha256
        if digest is not None and digest != fingerprint(tokenizer):
            raise DataError(
                f"{file}: tokens of another tokenizer than the model's; make them again"
            )
        check_content(file)
    found = [_row(row, where, answers=answers) for where, row in read_rows(file, limit)]
    return _Rows(found, _about(name, split, file, "token ids"))


def _row(row: Mapping[str, Any], where: str, *, answers: bool) -> Tokens:
    """The token ids of one row, without its padding."""
    ids, mask, counts = (row.get(column) for column in (COLUMN, "mask", "answers"))
    if not isinstance(ids, list) or not all(isinstance(one, int) for one in ids):
        raise ArtifactError(f"{where}: {COLUMN} must be a list of whole numbers, got {ids!r:.60}")
    for column, flags in (("mask", mask), ("answers", counts)):
        told = isinstance(flags, list) and all(flag in (0, 1) for flag in flags)
        if flags is not None and not (told and len(flags) == len(ids)):
            raise ArtifactError(
                f"{where}: {column} must hold true or false for each of {len(ids)} token ids, got"
                f" {flags!r:.60}"
            )
    tokens = len(ids) if mask is None else sum(mask)
    if mask is not None and not all(mask[:tokens]):
        raise ArtifactError(f"{where}: mask must be false behind a row's tokens alone")
    learned = None if counts is None or not answers else np.asarray(counts[:tokens], dtype=bool)
    return Tokens(np.asarray(ids[:tokens], dtype=np.int32), learned)


def _counting(document: Tokens) -> np.ndarray:
    """Which tokens of a document count; all, where it does not say."""
    whole = np.ones(len(document.ids), dtype=bool)
    return whole if document.answers is None else document.answers


def _about(name: str, split: str, file: Path, variant: str) -> dict[str, Any]:
    return {"corpus": name, "split": split, "variant": variant, "source": f"file:{file.name}"}
