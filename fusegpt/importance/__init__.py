"""Importance metrics: how much a model needs each unit. High = keep; the lowest is removed.

Each is a function ``metric(model, batches, units, *, settings...) -> [units]`` in a file of its
own, and a line here.
"""

from fusegpt.registry import Entry

__all__ = ["METRICS"]

METRICS: dict[str, Entry] = {
    "macro_influence": Entry("fusegpt.importance.macro_influence:macro_influence"),
}
