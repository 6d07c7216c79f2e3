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
        trains: Whether it needs windows of text to tune on.
        runs: Whether it also takes a run of neighbouring units, removed at once.
    """

    when: Literal["step", "end"] = "step"
    trains: bool = True
    runs: bool = False


RECOVERIES: dict[str, Recovery] = {
    "none": Recovery("fusegpt.recovery.none:none", trains=False, runs=True),
    "finetune": Recovery("fusegpt.recovery.finetune:finetune"),
    "fusion": Recovery("fusegpt.recovery.fusion:fusion"),
}
