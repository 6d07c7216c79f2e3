"""Corpora, seeded windows of token ids, and the models' sources."""

from __future__ import annotations

from fusegpt.registry import Entry

__all__ = ["CORPORA"]

CORPORA: dict[str, Entry] = {
    "wikitext2": Entry("fusegpt.data.corpora:wikitext2"),
    "c4": Entry("fusegpt.data.corpora:c4"),
    "c4_old": Entry("fusegpt.data.corpora:c4_old"),
    "python_docs": Entry("fusegpt.data.corpora:python_docs"),
}
