"""Width slicing, apart from the depth code: every hidden size becomes smaller, every block stays.

A sliced checkpoint needs one import before plain transformers can load it:
``import fusegpt.slicegpt.modeling``.
"""

from __future__ import annotations

from fusegpt.registry import Entry

__all__ = ["WIDTHS"]

WIDTHS: dict[str, Entry] = {
    "slicegpt": Entry("fusegpt.slicegpt.rotation:slicegpt"),
}
"""``<name>(model, batches, sparsity, *, seed, settings...) -> (Model, record)``."""
