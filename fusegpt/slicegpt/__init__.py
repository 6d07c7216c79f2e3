"""Width slicing, apart from the depth code: every hidden size becomes smaller, every block stays.

The table also has what shares weights among blocks (``fusegpt.sharing``): blocks stay there, too.

A sliced checkpoint needs one import before plain transformers can load it:
``import fusegpt.slicegpt.modeling``.
"""

from __future__ import annotations

from dataclasses import dataclass

from fusegpt.methods import Method
from fusegpt.slicegpt.settings import WidthSettings

__all__ = ["WIDTHS", "Width"]


@dataclass(frozen=True)
class Width(Method[WidthSettings]):
    """A line of ``WIDTHS``.

    Attributes:
        suits: ``"package.module:function"``, called with the contents of ``config.json`` and the
            model's place for messages, before weights are loaded; it raises when the method
            cannot slice the model.
    """

    suits: str | None = None


WIDTHS: dict[str, Width] = {
    "slicegpt": Width(
        "fusegpt.slicegpt.rotation:slicegpt",
        "fusegpt.slicegpt.settings:SliceGpt",
        suits="fusegpt.slicegpt.families:family_of",
    ),
    "flexigpt": Width("fusegpt.sharing.flexigpt:flexigpt", "fusegpt.sharing.settings:FlexiGpt"),
    "foldgpt": Width("fusegpt.sharing.foldgpt:foldgpt", "fusegpt.sharing.settings:FoldGpt"),
}
"""``<name>(model, batches, sparsity, settings, *, seed) -> (Model, record)``."""
