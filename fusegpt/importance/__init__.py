"""Importance metrics: how much a model needs each unit. High = keep; the lowest is removed.

Each is a function ``metric(model, batches, units, *, settings...) -> [units]`` in a file of its
own, and a line here. A metric gets what the run knows by naming it as a keyword: ``seed``;
``run``, the length of the runs of blocks that a contiguous selection scores; ``original``, the
dense model, when the recipe's ``reference`` is ``original``; ``details``, a table for further
numbers of each unit.
"""

from fusegpt.registry import Entry

__all__ = ["METRICS"]

METRICS: dict[str, Entry] = {
    "macro_influence": Entry("fusegpt.importance.macro_influence:macro_influence"),
    "block_influence": Entry("fusegpt.importance.block_influence:block_influence"),
    "relative_l1": Entry("fusegpt.importance.relative_l1:relative_l1"),
    "relative_l2": Entry("fusegpt.importance.relative_l2:relative_l2"),
    "angular_distance": Entry("fusegpt.importance.angular_distance:angular_distance"),
    "sleb": Entry("fusegpt.importance.sleb:sleb"),
    "perplexity": Entry("fusegpt.importance.perplexity:perplexity"),
    "taylor": Entry("fusegpt.importance.taylor:taylor"),
    "shapley": Entry("fusegpt.importance.shapley:shapley"),
    "last_blocks": Entry("fusegpt.importance.last_blocks:last_blocks"),
    "random": Entry("fusegpt.importance.random:random"),
}
