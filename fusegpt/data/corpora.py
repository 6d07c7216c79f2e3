"""Corpora as one text each: from the hub, a local file, or the Python that runs us."""

from __future__ import annotations

import hashlib
import logging
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fusegpt.data import CORPORA
from fusegpt.data.files import read_documents
from fusegpt.data.hub import dataset_file
from fusegpt.errors import ConfigError, DataError
from fusegpt.registry import lookup

__all__ = [
    "Text",
    "by_rank",
    "c4",
    "c4_old",
    "draw_rows",
    "file_of",
    "load_text",
    "python_docs",
    "wikitext2",
]

logger = logging.getLogger(__name__)

WIKITEXT = ("Salesforce/wikitext", "b08601e04326c79dfdd32d625aee71d232d685c3")
C4 = ("allenai/c4", "1588ec454efa1a09f29cd18ddd04fe05fc8653a2")
C4_DOCUMENTS = 1100
ENTRY_KEYS = ("splits", "join", "documents", "variant")


@dataclass(frozen=True)
class Text:
    """One split of a corpus.

    Attributes:
        text: The documents, joined.
        name: The corpus as the user named it; of a file, the file's name.
        split: The split as the user named it.
        join: What stands between two documents.
        source: Where it came from, with the revision or the Python version.
        variant: Which of several texts of that name this is, e.g. ``c4-new``.
        documents: How many documents were joined.
        rows: The documents one by one.
    """

    text: str
    name: str
    split: str
    join: str
    source: str
    variant: str
    documents: int
    rows: list[str] = field(default_factory=list, repr=False)

    def notes(self, tokens: int) -> dict[str, Any]:
        """Return what a record says of the text that its ``tokens`` tokens were cut from."""
        return {
            "corpus": self.name,
            "split": self.split,
            "variant": self.variant,
            "source": self.source,
            "documents": self.documents,
            "join": self.join,
            "tokens": tokens,
        }


def load_text(
    corpus: str, split: str, config: Mapping[str, Mapping[str, Any]] | None = None
) -> Text:
    """Load one split of a corpus.

    Args:
        corpus: A name in ``config`` or in ``CORPORA``, or a file (parquet, jsonl, txt).
        split: Its split; only noted when ``corpus`` is a file.
        config: The config's ``corpora``: names to ``{"splits": {split: file}, "join": str,
            "documents": int, "variant": str}``. An entry without ``splits`` changes only how a
            built-in corpus is joined or how many documents are taken.

    Raises:
        ConfigError: An entry has an unknown key.
        DataError: No such split or file, no text in it, or the hub cannot be reached.
        UnknownNameError: No such corpus.
    """
    entry = dict((config or {}).get(corpus) or {})
    if unknown := sorted(set(entry) - set(ENTRY_KEYS)):
        raise ConfigError(
            f"corpora.{corpus}: unknown key {unknown[0]!r}; known: {', '.join(ENTRY_KEYS)}"
        )
    if (file := file_of(corpus, split, config or {})) is not None:
        text = _from_file(file, corpus if "splits" in entry else file.name, split, entry)
    elif corpus not in CORPORA and Path(corpus).suffix:
        raise DataError(f"{corpus}: no such file, and no corpus of this name")
    else:
        options = {key: entry[key] for key in ("join", "documents") if key in entry}
        text = lookup(CORPORA, corpus, "corpus").load()(split, **options)
    if not text.text.strip():
        raise DataError(f"corpus {corpus!r}, split {split!r}: no text in {text.source}")
    return replace(text, variant=entry.get("variant", text.variant))


def file_of(corpus: str, split: str, corpora: Mapping[str, Any]) -> Path | None:
    """Return the file that a split of a corpus is; None: code finds the text, or nothing does.

    Args:
        corpus: A corpus by name, or a file.
        split: Split of the corpus.
        corpora: The configuration's ``corpora``.

    Raises:
        DataError: The corpus has files, none of them for the split.
    """
    entry = corpora.get(corpus) or {}
    if "splits" in entry:
        return Path(_known_split(entry["splits"], corpus, split))
    return Path(corpus) if corpus not in CORPORA and Path(corpus).is_file() else None


def draw_rows(text: Text, count: int, seed: int) -> Text:
    """Draw documents without replacement and join them in the order drawn.

    Document i has the rank of sha256("seed:i"), so fewer are the first of more, with any version
    of any library.

    Raises:
        DataError: There are fewer documents.
    """
    if count > len(text.rows):
        raise DataError(
            f"corpus {text.name!r}, split {text.split!r}: {count} rows asked,"
            f" {len(text.rows)} there"
        )
    drawn = [text.rows[index] for index in by_rank(len(text.rows), seed)[:count]]
    return replace(text, text=text.join.join(drawn), documents=count, rows=drawn)


def by_rank(count: int, seed: int) -> list[int]:
    """Return the numbers below ``count`` in the order of sha256("seed:number")."""

    def rank(index: int) -> bytes:
        return hashlib.sha256(f"{seed}:{index}".encode()).digest()

    return sorted(range(count), key=rank)


def wikitext2(split: str, join: str = "\n\n", documents: int | None = None) -> Text:
    """WikiText-2 raw, rows joined by an empty line (method of FuseGPT, SLEB, Wanda)."""
    _known_split(dict.fromkeys(("train", "validation", "test")), "wikitext2", split)
    name = f"wikitext-2-raw-v1/{split}-00000-of-00001.parquet"
    rows = read_documents(dataset_file(*WIKITEXT, name), limit=documents)
    source = f"hub:{WIKITEXT[0]}@{WIKITEXT[1]}/{name}"
    return _joined(rows, "wikitext2", split, join, source, "wikitext-2-raw-v1")


def c4(split: str, join: str = " ", documents: int | None = C4_DOCUMENTS) -> Text:
    """First documents of the first shard of C4 (en), joined by a space.

    With split ``validation`` and the default number of documents this is the literature's
    "c4-new"; its perplexity takes the first 256 windows.
    """
    shards = {"train": "c4-train.00000-of-01024", "validation": "c4-validation.00000-of-00008"}
    name = f"en/{_known_split(shards, 'c4', split)}.json.gz"
    rows = read_documents(dataset_file(*C4, name), limit=documents)
    new = split == "validation" and documents == C4_DOCUMENTS and join == " "
    source = f"hub:{C4[0]}@{C4[1]}/{name}"
    return _joined(rows, "c4", split, join, source, "c4-new" if new else "c4")


def c4_old(split: str, join: str = " ", documents: int | None = None) -> Text:
    """The whole first shard of C4 (en), for windows that lie inside one document.

    Perplexity with ``cut: documents`` on split ``validation`` is the older "c4" of GPTQ, OmniQuant
    and LinearPatch, whose values are lower than those of ``c4``.
    """
    return replace(c4(split, join, documents), name="c4_old", variant="c4-old")


def python_docs(split: str, join: str = "\n\n", documents: int | None = None) -> Text:
    """The language reference that every Python carries, one document a topic.

    One topic in five, by the checksum of its name, is ``test``, the others are ``train``. Topics
    quote each other, so ``train`` goes without the paragraphs that stand in ``test``. The text
    changes with Python's version, so numbers compare within one version only.
    """
    _known_split(dict.fromkeys(("train", "test")), "python_docs", split)
    from pydoc_data.topics import topics

    tested = [topics[name].strip() for name in sorted(topics) if _is_test(name)]
    rows = tested
    if split == "train":
        seen = {_plain(part) for row in tested for part in row.split("\n\n")}
        others = [topics[name].strip() for name in sorted(topics) if not _is_test(name)]
        kept = ([p for p in row.split("\n\n") if _plain(p) not in seen] for row in others)
        rows = ["\n\n".join(parts) for parts in kept if parts]
    version = platform.python_version()
    source = f"pydoc_data.topics of Python {version}"
    return _joined(rows[:documents], "python_docs", split, join, source, f"python-{version}")


def _plain(paragraph: str) -> str:
    return " ".join(paragraph.split())


def _is_test(topic: str) -> bool:
    return int.from_bytes(hashlib.sha256(topic.encode()).digest()[:8], "big") % 5 == 0


def _from_file(path: Path, name: str, split: str, entry: Mapping[str, Any]) -> Text:
    rows = read_documents(path, limit=entry.get("documents"))
    return _joined(rows, name, split, entry.get("join", "\n\n"), f"file:{path.name}", "local file")


def _joined(rows: list[str], name: str, split: str, join: str, source: str, variant: str) -> Text:
    logger.info("corpus %s, split %s: %d documents from %s", name, split, len(rows), source)
    return Text(join.join(rows), name, split, join, source, variant, len(rows), rows)


def _known_split(splits: Mapping[str, Any], corpus: str, split: str) -> Any:
    if split not in splits:
        raise DataError(
            f"corpus {corpus!r}: no split {split!r}; it has: {', '.join(map(str, splits))}"
        )
    return splits[split]
