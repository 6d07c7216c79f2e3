"""Corpora, seeded windows of token ids, and the models' sources."""

from __future__ import annotations

from fusegpt.registry import Entry

__all__ = ["CORPORA", "SPLITS"]

CORPORA: dict[str, Entry] = {
    "wikitext2": Entry("fusegpt.data.corpora:wikitext2"),
    "c4": Entry("fusegpt.data.corpora:c4"),
    "c4_old": Entry("fusegpt.data.corpora:c4_old"),
    "python_docs": Entry("fusegpt.data.corpora:python_docs"),
}

SPLITS: dict[str, tuple[str, ...]] = {
    "wikitext2": ("train", "validation", "test"),
    "c4": ("train", "validation"),
    "c4_old": ("train", "validation"),
    "python_docs": ("train", "test"),
}
"""Splits of those corpora that have not any split; a plan refuses others before it fetches."""
