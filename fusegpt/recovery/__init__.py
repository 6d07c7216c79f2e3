"""Recoveries: what is done about a removed unit.

Each is a function in a file of its own, and a line here. On entry the unit is still in the model,
on return it is gone and the model is as good as the method makes it.
"""

from dataclasses import dataclass
from typing import Literal

from fusegpt.registry import Entry

__all__ = ["RECOVERIES", "Recovery"]


@dataclass(frozen=True)
class Recovery(Entry):
    """A line of ``RECOVERIES``.

    Attributes:
        when: ``step``: after each removal. ``end``: once, after the last one.
        needs_windows: Whether it needs windows of text to tune on.
        runs: Whether it also takes a run of neighbouring units, removed at once.
        needs_before: Whether it folds into the block before, so that the first cannot go.
        sublayers: Whether it also works for attentions and mlps.
    """

    when: Literal["step", "end"] = "step"
    needs_windows: bool = True
    runs: bool = False
    needs_before: bool = False
    sublayers: bool = False


RECOVERIES: dict[str, Recovery] = {
    "none": Recovery("fusegpt.recovery.none:none", needs_windows=False, runs=True, sublayers=True),
    "finetune": Recovery("fusegpt.recovery.finetune:finetune", sublayers=True),
    "fusion": Recovery("fusegpt.recovery.fusion:fusion", sublayers=True),
    "additive_bias": Recovery(
        "fusegpt.recovery.additive_bias:additive_bias",
        runs=True,
        needs_before=True,
        sublayers=True,
    ),
    "low_rank": Recovery(
        "fusegpt.recovery.low_rank:low_rank", runs=True, needs_before=True, sublayers=True
    ),
    "least_squares": Recovery(
        "fusegpt.recovery.least_squares:least_squares",
        runs=True,
        needs_before=True,
        sublayers=True,
    ),
    "magnitude": Recovery("fusegpt.recovery.magnitude:magnitude", runs=True),
    "streamline": Recovery("fusegpt.recovery.streamline:streamline", runs=True),
    "lora": Recovery("fusegpt.recovery.lora:lora", when="end", sublayers=True),
}
